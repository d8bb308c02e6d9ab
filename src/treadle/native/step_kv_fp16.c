/* Attention over a cache of float16 numbers. */

#include "step_pages.h"

void score_fp16(const Plane *p, const float *q, int count, int most, float *scores, int64_t row) {
    score(p, q, count, most, FP16, scores, row);
}

void gather_fp16(const Plane *p, const float *weights, int64_t row, int count, int most, float *out) {
    gather(p, weights, row, count, most, FP16, out);
}
