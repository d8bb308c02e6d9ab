/* See step_lora.h. */

#include "step_lora.h"

void narrow_run(const LowRank *change, const Run *run, const Activations *x, int cols, float *low) {
    for (int k = 0; k < change->rank; k++)
        for (int i = 0; i < run->count; i++)
            low[(int64_t)i * change->rank + k] =
                dot(change->narrow + (int64_t)k * cols, x->values + (int64_t)(run->first + i) * cols, cols);
}

void widen_run(const LowRank *change, const Run *run, const float *low, int begin, int end, float *target, int64_t stride) {
    int rank = change->rank;
    for (int c = begin; c < end; c += LANES) {
        const float *from = change->widen + c;
        for (int i = 0; i < run->count; i++) {
            float *at = target + (run->first + i) * stride + c;
            const float *weights = low + (int64_t)i * rank;
            if (c + LANES <= end) {
                floats total = {0};
                for (int k = 0; k < rank; k++) total = fused(load(from + k * stride), spread(weights[k]), total);
                store(at, load(at) + total);
            } else
                for (int rest = 0; rest < end - c; rest++) {
                    float total = 0;
                    for (int k = 0; k < rank; k++) total = fmaf(from[k * stride + rest], weights[k], total);
                    at[rest] += total;
                }
        }
    }
}
