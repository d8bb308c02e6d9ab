/* See step_sparse.h. */

#include "step_sparse.h"

/* Entries that come from memory while others are multiplied; rows follow each other without a gap. */
enum { AHEAD = 512 };
/* Few rows take a narrow vector, so that their columns stay in the first cache. */
enum { FEW = 4 };
typedef float few __attribute__((vector_size(4 * FEW)));

static int lanes_of(const GroupRows *group) { return group->count <= FEW ? FEW : LANES; }

int64_t turned_size(int64_t cols) { return cols * LANES; }

void turn_group(const Shares *shares, const GroupRows *group, const float *x, int cols, float *turned) {
    int lanes = lanes_of(group);
    for (int i = 0; i < lanes; i++) {
        if (i >= group->count) {
            for (int64_t c = 0; c < cols; c++) turned[c * lanes + i] = 0;
            continue;
        }
        const float *from = x + (int64_t)shares->rows[group->first + i] * cols;
        for (int64_t c = 0; c < cols; c++) turned[c * lanes + i] = from[c];
    }
}

INLINE few fused_few(few a, few b, few c) {
#if defined(__FMA__)
    return (few)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
#else
    for (int lane = 0; lane < FEW; lane++) c[lane] = fmaf(a[lane], b[lane], c[lane]);
    return c;
#endif
}

INLINE few load_few(const float *from) {
    few found;
    memcpy(&found, from, sizeof found);
    return found;
}

INLINE few spread_few(float value) { return value - (few){0}; }

/* One row of m times the columns of a group; four sums in turn, of which each lane has the same whatever the width. */
#define ROW_SUM(NAME, VECTOR, WIDTH, LOAD, SPREAD, FUSED)                                                                  \
    INLINE VECTOR NAME(const Sparse *m, int row, const float *turned) {                                                    \
        int64_t at = m->starts[row], stop = m->starts[row + 1];                                                            \
        const uint16_t *columns = m->columns;                                                                              \
        const float *values = m->values;                                                                                   \
        VECTOR a = {0}, b = {0}, c = {0}, d = {0};                                                                         \
        for (; at + 4 <= stop; at += 4) {                                                                                  \
            __builtin_prefetch(values + at + AHEAD, 0, 3);                                                                 \
            __builtin_prefetch(columns + at + 2 * AHEAD, 0, 3);                                                            \
            a = FUSED(LOAD(turned + (size_t)columns[at] * WIDTH), SPREAD(values[at]), a);                                  \
            b = FUSED(LOAD(turned + (size_t)columns[at + 1] * WIDTH), SPREAD(values[at + 1]), b);                          \
            c = FUSED(LOAD(turned + (size_t)columns[at + 2] * WIDTH), SPREAD(values[at + 2]), c);                          \
            d = FUSED(LOAD(turned + (size_t)columns[at + 3] * WIDTH), SPREAD(values[at + 3]), d);                          \
        }                                                                                                                  \
        for (; at < stop; at++) a = FUSED(LOAD(turned + (size_t)columns[at] * WIDTH), SPREAD(values[at]), a);              \
        return (a + b) + (c + d);                                                                                          \
    }
ROW_SUM(row_of_few, few, FEW, load_few, spread_few, fused_few)
ROW_SUM(row_of_many, floats, LANES, load, spread, fused)

void add_group(const Sparse *m, const Shares *shares, const GroupRows *group, const float *turned, int begin, int end,
               float *target, int64_t stride) {
    const int32_t *rows = shares->rows + group->first;
    const float *weights = shares->weights + group->first;
    if (lanes_of(group) == FEW)
        for (int r = begin; r < end; r++) {
            few total = row_of_few(m, r, turned);
            for (int i = 0; i < group->count; i++) target[rows[i] * stride + r] += weights[i] * total[i];
        }
    else
        for (int r = begin; r < end; r++) {
            floats total = row_of_many(m, r, turned);
            for (int i = 0; i < group->count; i++) target[rows[i] * stride + r] += weights[i] * total[i];
        }
}

void add_row(const Sparse *m, int row, float scale, float *x) {
    for (int64_t at = m->starts[row]; at < m->starts[row + 1]; at++) x[m->columns[at]] += scale * m->values[at];
}
