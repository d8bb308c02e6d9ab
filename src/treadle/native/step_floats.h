/* Products with float32 or float16 weights; a unit includes it and makes those of one type. */

#pragma once

#include "step_matrix.h"

/* What is fetched ahead of a matrix of floats: all of the next group of rows, shared out over the tiles of this one. */
typedef struct {
    const char *next, *end;
} Ahead;

/* Lines that a tile fetches at each column: so many that all tiles of a group fetch the next one. */
enum { FETCH_NONE = 0, FETCH_TWO = 2, FETCH_ONE = 1, FETCH_HALF = -2 };
enum { LINE = 64 };

/* out[g][a] = the dot products of LANES rows, from `row` + g * LANES on, with activation a. Columns are added up in runs,
 * and the runs' sums in turn, which keeps the sums of many columns exact enough. */
INLINE void tile_floats(
    const Matrix *m, int row, const float *x, int64_t stride, int type, int G, int A, int fetch, const char *ahead,
    floats out[4][MOST_ACTIVATIONS]) {
    enum { COLUMNS = 256 };
    int64_t cols = m->cols, at = (int64_t)row * cols;
    for (int g = 0; g < G; g++)
        for (int a = 0; a < A; a++) out[g][a] = (floats){0};
    for (int64_t first = 0; first < cols; first += COLUMNS) {
        int64_t stop = first + COLUMNS < cols ? first + COLUMNS : cols;
        floats total[4][MOST_ACTIVATIONS] = {0};
        for (int64_t c = first; c < stop; c++) {
            floats w[4];
            for (int g = 0; g < G; g++) {
                int64_t from = at + (g * cols + c) * LANES;
                w[g] = type == F32 ? load((const float *)m->data + from) : load_half((const uint16_t *)m->data + from);
            }
            if (fetch == FETCH_HALF && c % 2) will_read(ahead + c / 2 * LINE);
            for (int line = 0; line < fetch; line++) will_read(ahead + (c * fetch + line) * LINE);
            for (int a = 0; a < A; a++) {
                floats v = spread(x[a * stride + c]);
                for (int g = 0; g < G; g++) total[g][a] = fused(w[g], v, total[g][a]);
            }
        }
        for (int g = 0; g < G; g++)
            for (int a = 0; a < A; a++) out[g][a] += total[g][a];
    }
}

/* One tile, which fetches as much ahead as is left to fetch. */
INLINE void step_floats(const Matrix *m, int row, const float *x, int type, int G, int A, int fetch, Ahead *ahead,
                        floats out[4][MOST_ACTIVATIONS]) {
    int64_t cols = m->cols;
    if (ahead->next >= ahead->end) return tile_floats(m, row, x, cols, type, G, A, FETCH_NONE, 0, out);
    const char *from = ahead->next;
    ahead->next += LINE * (fetch == FETCH_HALF ? cols / 2 : fetch * cols);
    switch (fetch) {
    case FETCH_TWO: return tile_floats(m, row, x, cols, type, G, A, FETCH_TWO, from, out);
    case FETCH_ONE: return tile_floats(m, row, x, cols, type, G, A, FETCH_ONE, from, out);
    default: return tile_floats(m, row, x, cols, type, G, A, FETCH_HALF, from, out);
    }
}

INLINE void block_floats(const Matrix *m, const float *x, int first, int row, int stop, int type, int A, int fetch,
                         Ahead *ahead, float *target, int64_t stride, int add) {
    floats out[4][MOST_ACTIVATIONS];
    x += (int64_t)first * m->cols;
    target += first * stride;
    enum { FEW = 2, MANY = 4 };
    if (A == 1)
        for (; row + MANY * LANES <= stop; row += MANY * LANES) {
            tile_floats(m, row, x, m->cols, type, MANY, 1, FETCH_NONE, 0, out);
            for (int g = 0; g < MANY; g++) put(m, row + g * LANES, out[g][0], target, add);
        }
    for (; row + FEW * LANES <= stop; row += FEW * LANES) {
        if (A == 1) tile_floats(m, row, x, m->cols, type, FEW, A, FETCH_NONE, 0, out);
        else step_floats(m, row, x, type, FEW, A, fetch, ahead, out);
        for (int g = 0; g < FEW; g++)
            for (int a = 0; a < A; a++) put(m, row + g * LANES, out[g][a], target + a * stride, add);
    }
    for (; row < stop; row += LANES) {
        tile_floats(m, row, x, m->cols, type, 1, A, FETCH_NONE, 0, out);
        for (int a = 0; a < A; a++) put(m, row, out[0][a], target + a * stride, add);
    }
}

/* Rows of floats that stay in the cache, beside the next ones, while all activations pass. */
static int rows_at_once(const Matrix *m, int type) {
    enum { ROOM = 256 << 10 };
    int64_t rows = ROOM / ((int64_t)m->cols * (type == F32 ? 4 : 2)) / (2 * LANES) * (2 * LANES);
    return rows < 2 * LANES ? 2 * LANES : rows > GROUP ? GROUP : (int)rows;
}

INLINE void multiply_floats(const Matrix *m, const float *x, int count, int begin, int end, int type, float *target,
                            int64_t stride, int add) {
    int size = rows_at_once(m, type), passes = count / MOST_ACTIVATIONS + (count % MOST_ACTIVATIONS + 3) / 4;
    int64_t row_bytes = (int64_t)m->cols * (type == F32 ? 4 : 2);
    int fetch = passes >= 4 ? FETCH_HALF : passes > 1 || type == F16 ? FETCH_ONE : FETCH_TWO;
    for (int group = begin; group < end; group += size) {
        int stop = group + size < end ? group + size : end, first = 0;
        const char *next = (const char *)m->data + stop * row_bytes;
        Ahead ahead = {next, next + size * row_bytes};
        for (; first + MOST_ACTIVATIONS <= count; first += MOST_ACTIVATIONS)
            block_floats(m, x, first, group, stop, type, MOST_ACTIVATIONS, fetch, &ahead, target, stride, add);
        for (; MOST_ACTIVATIONS > 4 && first + 4 <= count; first += 4)
            block_floats(m, x, first, group, stop, type, 4, fetch, &ahead, target, stride, add);
        for (; first + 2 <= count; first += 2)
            block_floats(m, x, first, group, stop, type, 2, fetch, &ahead, target, stride, add);
        if (first < count) block_floats(m, x, first, group, stop, type, 1, fetch, &ahead, target, stride, add);
    }
}
