/* Attention over a cache of float32 numbers. */

#include "step_pages.h"

void score_fp32(const Queries *q, const Places *now, const Places *next, float *scores) {
    score(q, now, next, FP32, scores);
}

void gather_fp32(float *weights, const float *factors, const Queries *q, const Places *now, const Places *next,
                 float *out) {
    gather(weights, factors, q, now, next, FP32, out);
}
