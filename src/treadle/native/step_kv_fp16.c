/* Attention over a cache of float16 numbers. */

#include "step_pages.h"

void score_fp16(const Queries *q, const Places *now, const Places *next, float *scores) {
    score(q, now, next, FP16, scores);
}

void gather_fp16(float *weights, const float *factors, const Queries *q, const Places *now, const Places *next,
                 float *out) {
    gather(weights, factors, q, now, next, FP16, out);
}
