/* Attention over a cache of 4-bit numbers. */

#include "step_pages.h"

void score_int4(const Queries *q, const Places *now, const Places *next, float *scores) {
    score(q, now, next, INT4, scores);
}

void gather_int4(float *weights, const float *factors, const Queries *q, const Places *now, const Places *next,
                 float *out) {
    gather(weights, factors, q, now, next, INT4, out);
}
