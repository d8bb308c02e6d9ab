/* Low-rank adapters: some rows get widen (narrow x) on top of a matrix's product. The sums of a row run in a fixed
 * order, over the columns and then over the ranks, whatever rows and threads are beside it. */

#pragma once

#include "step_matrix.h"

enum { ON_Q, ON_K, ON_V, ON_O, ON_GATE, ON_UP, ON_DOWN, NUM_TARGETS };

#define LOW_RANK_FIELDS(F)                                                                                                 \
    F(int32_t, rank) /* 0: the matrix stays as it is */                                                                    \
    F(int32_t, unused)                                                                                                     \
    F(const float *, narrow) /* [rank, cols] */                                                                            \
    F(const float *, widen)  /* [rank, rows], times the adapter's scale */
MIRRORED(LowRank, LOW_RANK_FIELDS);

/* Neighbouring rows of one adapter. */
#define RUN_FIELDS(F)                                                                                                      \
    F(int32_t, first)                                                                                                      \
    F(int32_t, count)                                                                                                      \
    F(int32_t, adapter)
MIRRORED(Run, RUN_FIELDS);

#pragma GCC visibility push(hidden)

/* low[i] = narrow . x[i] for the rows of a run; [count, rank]. */
void narrow_run(const LowRank *change, const Run *run, const Activations *x, int cols, float *low);

/* target[i, c] += the sum over k of low[i, k] widen[k, c], for c from `begin` to `end`; `stride` columns. */
void widen_run(const LowRank *change, const Run *run, const float *low, int begin, int end, float *target, int64_t stride);

#pragma GCC visibility pop
