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

INLINE few load_few_halves(const uint16_t *from) {
#if defined(__F16C__)
    return (few)_mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)from));
#else
    few found;
    for (int lane = 0; lane < FEW; lane++) found[lane] = half_of(from[lane]);
    return found;
#endif
}

INLINE float plain(float value) { return value; }

/* One row of m times the columns of a group; four sums in turn, of which each lane has the same whatever the width. */
#define ROW_SUM(NAME, VECTOR, WIDTH, LOAD, SPREAD, FUSED, TYPE, VALUES, FOUR, ONE)                                         \
    INLINE VECTOR NAME(const Sparse *m, int row, const float *turned) {                                                    \
        int64_t at = m->starts[row], stop = m->starts[row + 1];                                                            \
        const uint16_t *columns = m->columns;                                                                              \
        const TYPE *values = m->VALUES;                                                                                    \
        VECTOR a = {0}, b = {0}, c = {0}, d = {0};                                                                         \
        for (; at + 4 <= stop; at += 4) {                                                                                  \
            __builtin_prefetch(values + at + AHEAD, 0, 3);                                                                 \
            __builtin_prefetch(columns + at + AHEAD, 0, 3);                                                                \
            few v = FOUR(values + at);                                                                                     \
            a = FUSED(LOAD(turned + (size_t)columns[at] * WIDTH), SPREAD(v[0]), a);                                        \
            b = FUSED(LOAD(turned + (size_t)columns[at + 1] * WIDTH), SPREAD(v[1]), b);                                    \
            c = FUSED(LOAD(turned + (size_t)columns[at + 2] * WIDTH), SPREAD(v[2]), c);                                    \
            d = FUSED(LOAD(turned + (size_t)columns[at + 3] * WIDTH), SPREAD(v[3]), d);                                    \
        }                                                                                                                  \
        for (; at < stop; at++) a = FUSED(LOAD(turned + (size_t)columns[at] * WIDTH), SPREAD(ONE(values[at])), a);         \
        return (a + b) + (c + d);                                                                                          \
    }
#define OF_FEW few, FEW, load_few, spread_few, fused_few
#define OF_MANY floats, LANES, load, spread, fused
#define ROW_SUM_OF(NAME, WIDTHS, ...) ROW_SUM(NAME, WIDTHS, __VA_ARGS__)
ROW_SUM_OF(few_of_floats, OF_FEW, float, values, load_few, plain)
ROW_SUM_OF(few_of_halves, OF_FEW, uint16_t, halves, load_few_halves, half_of)
ROW_SUM_OF(many_of_floats, OF_MANY, float, values, load_few, plain)
ROW_SUM_OF(many_of_halves, OF_MANY, uint16_t, halves, load_few_halves, half_of)

#define ADD_ROWS(VECTOR, SUM)                                                                                              \
    for (int r = begin; r < end; r++) {                                                                                    \
        VECTOR total = SUM(m, r, turned);                                                                                  \
        for (int i = 0; i < count; i++) targets[i][r] += weights[i] * total[i];                                            \
    }

void add_group(const Sparse *m, const Shares *shares, const GroupRows *group, const float *turned, int begin, int end,
               float *target, int64_t stride) {
    float weights[LANES], *targets[LANES];
    int count = group->count;
    for (int i = 0; i < count; i++) {
        weights[i] = shares->weights[group->first + i] * (m->values ? 1.0f : m->scale);
        targets[i] = target + shares->rows[group->first + i] * stride;
    }
    if (lanes_of(group) == FEW) {
        if (m->values) ADD_ROWS(few, few_of_floats)
        else ADD_ROWS(few, few_of_halves)
    } else {
        if (m->values) ADD_ROWS(floats, many_of_floats)
        else ADD_ROWS(floats, many_of_halves)
    }
}

void add_row(const Sparse *m, int row, float scale, float *x) {
    for (int32_t at = m->starts[row]; at < m->starts[row + 1]; at++)
        x[m->columns[at]] += scale * (m->values ? m->values[at] : m->scale * half_of(m->halves[at]));
}
