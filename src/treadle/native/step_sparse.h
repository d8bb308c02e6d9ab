/* Experts beside a model: some rows get weighted, sparse changes of its matrices on top of their products. The sums of a
 * row run in a fixed order, over the kept entries and then over the experts, whatever rows and threads are beside it. */

#pragma once

#include "step_matrix.h"

/* What an expert changes in a matrix [rows, cols]: row r has the entries starts[r] up to starts[r + 1]. */
#define SPARSE_FIELDS(F)                                                                                                   \
    F(int32_t, rows) /* 0: the matrix stays as it is */                                                                    \
    F(float, scale) /* of the halves */                                                                                    \
    F(const int32_t *, starts)                                                                                             \
    F(const uint16_t *, columns)                                                                                           \
    F(const float *, values) /* or null: then */                                                                           \
    F(const uint16_t *, halves)
MIRRORED(Sparse, SPARSE_FIELDS);

/* At most LANES rows that take a part of one expert: entries first up to first + count of the shares' rows. */
#define GROUP_ROWS_FIELDS(F)                                                                                               \
    F(int32_t, expert)                                                                                                     \
    F(int32_t, first)                                                                                                      \
    F(int32_t, count)
MIRRORED(GroupRows, GROUP_ROWS_FIELDS);

#define SHARES_FIELDS(F)                                                                                                   \
    F(const GroupRows *, groups)                                                                                           \
    F(const int32_t *, rows)                                                                                               \
    F(const float *, weights) /* what each row takes of the expert */                                                      \
    F(int32_t, num_groups)
MIRRORED(Shares, SHARES_FIELDS);

#pragma GCC visibility push(hidden)

/* Room for one group's activations of `cols` columns, in floats. */
int64_t turned_size(int64_t cols);

/* Writes the activations [rows, cols] of a group column by column. */
void turn_group(const Shares *shares, const GroupRows *group, const float *x, int cols, float *turned);

/* target[row, r] += the row's weight times (m[r] . x[row]) for r from `begin` to `end`; `stride` columns. */
void add_group(const Sparse *m, const Shares *shares, const GroupRows *group, const float *turned, int begin, int end,
               float *target, int64_t stride);

/* Adds the weighted row `row` of m to x, times `scale`. */
void add_row(const Sparse *m, int row, float scale, float *x);

#pragma GCC visibility pop
