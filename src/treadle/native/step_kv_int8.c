/* Attention over a cache of 8-bit numbers. */

#include "step_pages.h"

void score_int8(const Queries *q, const Places *now, const Places *next, float *scores) {
    score(q, now, next, INT8, scores);
}

void gather_int8(float *weights, const float *factors, const Queries *q, const Places *now, const Places *next,
                 float *out) {
    gather(weights, factors, q, now, next, INT8, out);
}
