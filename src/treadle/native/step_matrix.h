/* Matrices [rows, cols] times activations: float32, float16, 8-bit and 4-bit weights.
 *
 * LANES rows are interleaved: floats one column of each at a time, codes four, so that one vector instruction multiplies
 * one or four columns of LANES rows. Quantised weights stand in blocks of 32 columns with a half-precision scale (and
 * minimum) each; activations are rounded to 8 bits by the same blocks. A tile of weight rows meets a tile of activations;
 * whatever the tile, the products of one pair are added in the same order. */

#pragma once

#include "step_vector.h"

enum { F32 = 0, F16 = 1, Q8 = 2, Q4 = 3 };
enum { BLOCK = 32, STEPS = BLOCK / 4 };
/* Activations of a tile: what the machine has registers for. */
enum { MOST_ACTIVATIONS = LANES == 16 ? 8 : 4 };
/* Rows that stay in the cache while all activations pass, at most. */
enum { GROUP = 64 };

/* Eight-bit codes are stored with this offset, where the machine multiplies unsigned by signed bytes exactly. */
#if (defined(__AVX512VNNI__) && defined(__AVX512F__)) || (defined(__AVXVNNI__) && !defined(__AVX512F__))
enum { HAS_DOTS = 1, OFFSET = 128 };
#else
enum { HAS_DOTS = 0, OFFSET = 0 };
#endif

typedef struct {
    int32_t type, rows, cols, unused;
    const void *data;       /* float or half [rows / LANES, cols, LANES]; or codes [rows / LANES, blocks, STEPS (4 bits:
                             * STEPS / 2), LANES, 4], where a byte of 4-bit codes holds a column of step s and that of
                             * step s + STEPS / 2 */
    const uint16_t *scales; /* [rows / LANES, blocks, LANES] */
    const uint16_t *minima; /* the same, of 4-bit weights: weight = scale * code + minimum */
    const float *bias;      /* [rows], or null */
} Matrix;

typedef struct {
    float *values; /* [count, cols] */
    int8_t *codes; /* [count, cols] */
    float *scales; /* [count, cols / 32] */
    float *sums;   /* [count, cols / 32]: scale times the sum of the codes */
    int32_t *totals; /* [count, cols / 32]: that sum, times -OFFSET */
} Activations;

/* Rounds blocks [begin, end) of a row to 8 bits. */
static void quantise(
    const float *values, int8_t *codes, float *scales, float *sums, int32_t *totals, int begin, int end) {
    for (int b = begin; b < end; b++) {
        float largest = largest_of(values + b * BLOCK, BLOCK);
        scales[b] = largest / 127.0f;
        int32_t total = round_to_codes(values + b * BLOCK, codes + b * BLOCK, BLOCK, largest > 0 ? 127.0f / largest : 0);
        sums[b] = scales[b] * (float)total;
        totals[b] = -OFFSET * total;
    }
}

/* While a tile is multiplied, later ones come from memory: what the processor foresees by itself is too little when several
 * activations share a weight. A matrix's end is followed by the next matrix (runtime/linear/arena.py). */
INLINE void will_read(const void *place) { __builtin_prefetch(place, 0, 2); }

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

/* total[lane] += the dot product of four bytes of w and the four bytes of x. Codes of 8 bits are stored with OFFSET;
 * those of 4 bits are below 16. */
INLINE ints add_dots(ints total, ints w, int32_t x, int is_small) {
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
    (void)is_small;
    return (ints)_mm512_dpbusd_epi32((__m512i)total, (__m512i)w, _mm512_set1_epi32(x));
#elif defined(__AVXVNNI__)
    (void)is_small;
    return (ints)_mm256_dpbusd_avx_epi32((__m256i)total, (__m256i)w, _mm256_set1_epi32(x));
#elif defined(__AVX512BW__)
    __m512i v = _mm512_set1_epi32(x), u = (__m512i)w;
    if (!is_small) {
        v = _mm512_mask_sub_epi8(v, _mm512_movepi8_mask(u), _mm512_setzero_si512(), v);
        u = _mm512_abs_epi8(u);
    }
    return total + (ints)_mm512_madd_epi16(_mm512_maddubs_epi16(u, v), _mm512_set1_epi16(1));
#elif defined(__AVX2__)
    __m256i v = _mm256_set1_epi32(x), u = (__m256i)w;
    if (!is_small) {
        v = _mm256_sign_epi8(v, u);
        u = _mm256_abs_epi8(u);
    }
    return total + (ints)_mm256_madd_epi16(_mm256_maddubs_epi16(u, v), _mm256_set1_epi16(1));
#else
    for (int lane = 0; lane < LANES; lane++)
        for (int byte = 0; byte < 4; byte++) {
            int code = is_small ? w[lane] >> 8 * byte & 15 : (int8_t)(w[lane] >> 8 * byte);
            total[lane] += code * (int8_t)(x >> 8 * byte);
        }
    return total;
#endif
}

INLINE ints load_ints(const void *source) {
    ints value;
    memcpy(&value, source, sizeof value);
    return value;
}

/* out[a] = the dot products of the LANES rows from `row` on (a multiple of LANES) with activation first + a. */
INLINE void tile_codes(const Matrix *m, int row, const Activations *x, int first, int type, int A, int ahead,
                       floats *out) {
    int64_t blocks = m->cols / BLOCK, steps = type == Q4 ? STEPS / 2 : STEPS;
    const char *w = (const char *)m->data + row * blocks * steps * 4;
    const uint16_t *scales = m->scales + row * blocks, *minima = m->minima + row * blocks;
    floats total[MOST_ACTIVATIONS] = {0}, low = {0}, lows[MOST_ACTIVATIONS] = {0};
    for (int64_t b = 0; b < blocks; b++) {
        ints sums[MOST_ACTIVATIONS];
        for (int a = 0; a < A; a++)
            sums[a] = type == Q8 ? (ints){0} + x->totals[(first + a) * blocks + b] : (ints){0};
        for (int step = 0; step < steps; step++, w += sizeof(ints)) {
            ints codes = load_ints(w);
            if (ahead) will_read(w + blocks * steps * sizeof(ints));
            for (int a = 0; a < A; a++) {
                const int8_t *from = x->codes + (first + a) * (int64_t)m->cols + b * BLOCK + 4 * step;
                int32_t four;
                memcpy(&four, from, 4);
                if (type == Q8) sums[a] = add_dots(sums[a], codes, four, 0);
                else {
                    int32_t later;
                    memcpy(&later, from + BLOCK / 2, 4);
                    sums[a] = add_dots(sums[a], codes & 0x0f0f0f0f, four, 1);
                    sums[a] = add_dots(sums[a], codes >> 4 & 0x0f0f0f0f, later, 1);
                }
            }
        }
        floats scale = load_half(scales + b * LANES);
        if (type == Q4) low = load_half(minima + b * LANES);
        for (int a = 0; a < A; a++) {
            int64_t at = (first + a) * blocks + b;
            total[a] = fused(__builtin_convertvector(sums[a], floats), scale * x->scales[at], total[a]);
            if (type == Q4) lows[a] = fused(low, spread(x->sums[at]), lows[a]);
        }
    }
    for (int a = 0; a < A; a++) out[a] = type == Q4 ? total[a] + lows[a] : total[a];
}

/* target (+)= out, for the LANES rows of m from `row` on and one activation. */
INLINE void put(const Matrix *m, int row, floats out, float *target, int add) {
    if (m->rows - row >= LANES) {
        if (m->bias) out += load(m->bias + row);
        store(target + row, add ? load(target + row) + out : out);
        return;
    }
    for (int r = 0; r < m->rows - row; r++) {
        float value = out[r] + (m->bias ? m->bias[row + r] : 0.0f);
        target[row + r] = add ? target[row + r] + value : value;
    }
}

INLINE void block_codes(const Matrix *m, const Activations *x, int first, int row, int stop, int type, int A, float *target,
                        int64_t stride, int add) {
    floats out[MOST_ACTIVATIONS];
    for (; row < stop; row += LANES) {
        if ((A > 1 || type == Q4) && !first) tile_codes(m, row, x, first, type, A, 1, out);
        else tile_codes(m, row, x, first, type, A, 0, out);
        for (int a = 0; a < A; a++) put(m, row, out[a], target + (first + a) * stride, add);
    }
}

INLINE void multiply_codes(const Matrix *m, const Activations *x, int count, int begin, int end, int type, float *target,
                           int64_t stride, int add) {
    for (int group = begin; group < end; group += GROUP) {
        int stop = group + GROUP < end ? group + GROUP : end, first = 0;
        for (; first + MOST_ACTIVATIONS <= count; first += MOST_ACTIVATIONS)
            block_codes(m, x, first, group, stop, type, MOST_ACTIVATIONS, target, stride, add);
        for (; MOST_ACTIVATIONS > 4 && first + 4 <= count; first += 4)
            block_codes(m, x, first, group, stop, type, 4, target, stride, add);
        for (; first + 2 <= count; first += 2) block_codes(m, x, first, group, stop, type, 2, target, stride, add);
        if (first < count) block_codes(m, x, first, group, stop, type, 1, target, stride, add);
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

/* target[i, r] (+)= m[r] . x[i] for the rows [begin, end) of m and all `count` activations; `begin` is a multiple of
 * LANES. */
static void multiply(
    const Matrix *m, const Activations *x, int count, int begin, int end, float *target, int64_t stride, int add) {
    switch (m->type) {
    case F32: return multiply_floats(m, x->values, count, begin, end, F32, target, stride, add);
    case F16: return multiply_floats(m, x->values, count, begin, end, F16, target, stride, add);
    case Q8: return multiply_codes(m, x, count, begin, end, Q8, target, stride, add);
    default: return multiply_codes(m, x, count, begin, end, Q4, target, stride, add);
    }
}

/* Writes row `row` of a matrix as float32. */
static void expand_row(const Matrix *m, int row, float *target) {
    int64_t blocks = m->cols / BLOCK, group = row / LANES, lane = row % LANES, steps = m->type == Q4 ? STEPS / 2 : STEPS;
    for (int64_t c = 0; c < m->cols; c++) {
        int64_t at = (group * m->cols + c) * LANES + lane, block = (group * blocks + c / BLOCK), i = c % BLOCK;
        if (m->type == F32) target[c] = ((const float *)m->data)[at];
        else if (m->type == F16) target[c] = half_of(((const uint16_t *)m->data)[at]);
        else {
            int64_t step = i / 4 % steps;
            uint8_t code = ((const uint8_t *)m->data)[((block * steps + step) * LANES + lane) * 4 + i % 4];
            float scale = half_of(m->scales[block * LANES + lane]);
            if (m->type == Q8) target[c] = scale * (float)(int8_t)(code - OFFSET);
            else target[c] = scale * (float)(i < BLOCK / 2 ? code & 15 : code >> 4) + half_of(m->minima[block * LANES + lane]);
        }
    }
}
