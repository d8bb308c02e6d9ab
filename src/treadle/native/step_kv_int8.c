/* Attention over a cache of 8-bit numbers. */

#include "step_pages.h"

void score_int8(const Plane *p, const float *q, int count, int most, float *scores, int64_t row) {
    score(p, q, count, most, INT8, scores, row);
}

void gather_int8(const Plane *p, const float *weights, int64_t row, int count, int most, float *out) {
    gather(p, weights, row, count, most, INT8, out);
}
