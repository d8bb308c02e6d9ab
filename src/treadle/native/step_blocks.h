/* Products with GGUF's blocks of other kinds: weights of 2 to 6 bits, or of 4 bits that stand for a table's values. A unit
 * includes it and makes those of one type.
 *
 * A block of 32 columns has a vector for each four columns of its lowest bits: of 4 bits, columns 4 s to 4 s + 3 and, above
 * them, those 16 columns later; of 2 bits, of 16 columns. Then come what is above these: a vector of single bits, bit s of
 * columns 4 s to 4 s + 3, or two vectors of 2 bits. runtime/linear/blocks.py lays them so (native/codes_blocks.c). */

#pragma once

#include "step_codes.h"

enum { NO_TABLE, UNEVEN, FLOATS_OF_4_BITS };
enum { MOST_VECTORS = 6, SUPER_BLOCK = 256, SMALL_OFFSET = 12 };

typedef struct {
    int low, high; /* bits of a code, in both kinds of vectors */
    int parts;     /* of a block, which have factors of their own */
    int columns;   /* that share the scale */
    int has_lowers, centre, table;
} Form;

INLINE Form form_of(int type) {
    switch (type) {
    case Q2_K: return (Form){2, 0, 2, SUPER_BLOCK, 1, 0, NO_TABLE};
    case Q3_K: return (Form){2, 1, 2, SUPER_BLOCK, 0, 4, NO_TABLE};
    case Q4_K: return (Form){4, 0, 1, SUPER_BLOCK, 1, 0, NO_TABLE};
    case Q5_K: return (Form){4, 1, 1, SUPER_BLOCK, 1, 0, NO_TABLE};
    case Q6_K: return (Form){4, 2, 2, SUPER_BLOCK, 0, 32, NO_TABLE};
    case Q5_0: return (Form){4, 1, 1, BLOCK, 0, 16, NO_TABLE};
    case Q5_1: return (Form){4, 1, 1, BLOCK, 1, 0, NO_TABLE};
    case IQ4_NL: return (Form){4, 0, 1, BLOCK, 0, OFFSET, UNEVEN};
    case IQ4_XS: return (Form){4, 0, 1, SUPER_BLOCK, 0, OFFSET, UNEVEN};
    default: return (Form){4, 0, 1, BLOCK, 0, SMALL_OFFSET, FLOATS_OF_4_BITS};
    }
}

/* Of 2 bits, a factor and a lower bound share a byte. */
INLINE int is_shared(const Form *f) { return f->low == 2 && f->has_lowers; }

INLINE int vectors_of(const Form *f) { return f->low + f->high; }

/* What a table says of codes below 16, with the form's centre added. */
static const int8_t TABLES[3][16] __attribute__((aligned(16))) = {
    [UNEVEN] = {(int8_t)(OFFSET - 127), (int8_t)(OFFSET - 104), (int8_t)(OFFSET - 83), (int8_t)(OFFSET - 65), (int8_t)(OFFSET - 49), (int8_t)(OFFSET - 35), (int8_t)(OFFSET - 22),
                (int8_t)(OFFSET - 10), (int8_t)(OFFSET + 1), (int8_t)(OFFSET + 13), (int8_t)(OFFSET + 25), (int8_t)(OFFSET + 38), (int8_t)(OFFSET + 53), (int8_t)(OFFSET + 69),
                (int8_t)(OFFSET + 89), (int8_t)(OFFSET + 113)},
    [FLOATS_OF_4_BITS] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0},
};

INLINE ints looked_up(ints codes, int table) {
    const int8_t *values = TABLES[table];
#if defined(__AVX512BW__)
    return (ints)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)values)), (__m512i)codes);
#elif defined(__AVX2__)
    return (ints)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)values)), (__m256i)codes);
#else
    uint8_t each[sizeof codes];
    memcpy(each, &codes, sizeof each);
    for (size_t i = 0; i < sizeof each; i++) each[i] = (uint8_t)values[each[i]];
    memcpy(&codes, each, sizeof codes);
    return codes;
#endif
}

/* Columns 4 s to 4 s + 3 of a block, of LANES rows. */
INLINE ints codes_at(const Form *f, const ints *v, int s) {
    ints codes = f->low == 4 ? v[s % 4] >> s / 4 * 4 & 0x0f0f0f0f : v[s / 4] >> s % 4 * 2 & 0x03030303;
    const ints *above = v + f->low;
    if (f->high == 1) {
        int to = f->low; /* the bit's place */
        codes |= (s < to ? above[0] << (to - s) : above[0] >> (s - to)) & 0x01010101 << to;
    }
    if (f->high == 2) codes |= (s % 4 < 2 ? above[s / 4] << (4 - s % 4 * 2) : above[s / 4] >> (s % 4 * 2 - 4)) & 0x30303030;
    return f->table ? looked_up(codes, f->table) : codes;
}

/* LANES bytes as numbers, of which none is negative. */
INLINE floats floats_of_bytes(const uint8_t *source) {
#if defined(__AVX512F__)
    return (floats)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)source)));
#elif defined(__AVX2__)
    return (floats)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)source)));
#else
    floats value;
    for (int lane = 0; lane < LANES; lane++) value[lane] = source[lane];
    return value;
#endif
}

/* 2 to the power of LANES bytes less 128. */
INLINE floats powers_of(const uint8_t *source) {
    ints exponents = __builtin_convertvector(floats_of_bytes(source), ints), bits = (exponents - 1) << 23;
    ints tiny = exponents < 2, smallest = 0x00200000 << (exponents & 1);
    bits = (smallest & tiny) | (bits & ~tiny);
    floats value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The scales of the parts of block b, and what their minima add; `block` is its number in the matrix. */
INLINE void scales_at(const Matrix *m, const Form *f, int64_t block, int64_t shared, floats scales[2], floats lows[2]) {
    int each = 1 + f->has_lowers;
    const uint8_t *factors = m->factors + block * f->parts * (is_shared(f) ? 1 : each) * LANES;
    if (f->table == FLOATS_OF_4_BITS) {
        scales[0] = powers_of(factors);
        return;
    }
    const uint16_t *halves = m->scales + shared * each * LANES;
    floats scale = load_half(halves), minimum = f->has_lowers ? load_half(halves + LANES) : (floats){0};
    if (f->columns == BLOCK) {
        scales[0] = scale;
        lows[0] = minimum;
        return;
    }
    for (int part = 0; part < f->parts; part++) {
        if (is_shared(f)) {
            halves_of(factors + part * LANES, &scales[part], &lows[part]);
            scales[part] *= scale;
            lows[part] *= -minimum;
            continue;
        }
        scales[part] = scale * floats_of((const int8_t *)factors + part * LANES);
        if (f->has_lowers) lows[part] = -(minimum * floats_of_bytes(factors + (f->parts + part) * LANES));
    }
}

/* LANES rows as they are multiplied, one block of 32 columns after the other: for many activations they are unpacked once. */
typedef struct {
    ints *codes;           /* [blocks, STEPS] */
    floats *scales, *lows; /* [blocks, parts] */
} Opened;

/* What a block adds to the products of A activations, from number `first` on. */
INLINE void add_block(const Form *f, const Activations *x, int first, int64_t blocks, int64_t b, const ints *v, const Opened *rows,
                      const floats *scales, const floats *low, int A, floats *total, floats *lows) {
    int steps = STEPS / f->parts;
    for (int part = 0; part < f->parts; part++) {
        ints sums[MOST_ACTIVATIONS];
        for (int a = 0; a < A; a++) {
            const int32_t *sixteens = x->sixteens + 2 * ((first + a) * blocks + b);
            int32_t own = f->parts == 2 ? sixteens[part] : sixteens[0] + sixteens[1];
            sums[a] = (ints){0} - f->centre * own;
            if (f->has_lowers) lows[a] = fused(low[part], spread(x->scales[(first + a) * blocks + b] * (float)own), lows[a]);
        }
        for (int s = part * steps; s < (part + 1) * steps; s++) {
            ints codes = rows ? rows->codes[b * STEPS + s] : codes_at(f, v, s);
            for (int a = 0; a < A; a++) {
                int32_t four;
                memcpy(&four, x->codes + ((first + a) * blocks + b) * BLOCK + 4 * s, 4);
                sums[a] = add_dots(sums[a], codes, four, f->table != UNEVEN);
            }
        }
        for (int a = 0; a < A; a++) {
            floats scale = scales[part] * x->scales[(first + a) * blocks + b];
            total[a] = fused(__builtin_convertvector(sums[a], floats), scale, total[a]);
        }
    }
}

/* out[a] = the dot products of the LANES rows from `row` on (a multiple of LANES) with activation first + a. */
INLINE void tile_blocks(const Matrix *m, int row, const Activations *x, int first, int type, int A, int ahead, floats *out) {
    const Form f = form_of(type);
    int64_t blocks = m->cols / BLOCK, per_scale = f.columns / BLOCK, from = row / LANES * blocks;
    int vectors = vectors_of(&f);
    const char *w = (const char *)m->data + from * vectors * (int64_t)sizeof(ints);
    floats total[MOST_ACTIVATIONS] = {0}, lows[MOST_ACTIVATIONS] = {0};
    for (int64_t b = 0; b < blocks; b++) {
        ints v[MOST_VECTORS];
        floats scales[2], low[2];
        for (int i = 0; i < vectors; i++, w += sizeof(ints)) {
            v[i] = load_ints(w);
            if (ahead) will_read(w + blocks * vectors * (int64_t)sizeof(ints));
        }
        scales_at(m, &f, from + b, (from + b) / per_scale, scales, low);
        add_block(&f, x, first, blocks, b, v, NULL, scales, low, A, total, lows);
    }
    for (int a = 0; a < A; a++) out[a] = f.has_lowers ? total[a] + lows[a] : total[a];
}

INLINE void open_rows(const Matrix *m, int row, const Form *f, const Opened *to) {
    int64_t blocks = m->cols / BLOCK, per_scale = f->columns / BLOCK, from = row / LANES * blocks;
    int vectors = vectors_of(f);
    const char *w = (const char *)m->data + from * vectors * (int64_t)sizeof(ints);
    for (int64_t b = 0; b < blocks; b++) {
        ints v[MOST_VECTORS];
        for (int i = 0; i < vectors; i++, w += sizeof(ints)) v[i] = load_ints(w);
        for (int s = 0; s < STEPS; s++) to->codes[b * STEPS + s] = codes_at(f, v, s);
        scales_at(m, f, from + b, (from + b) / per_scale, to->scales + b * f->parts, to->lows + b * f->parts);
    }
}

/* The same products as `tile_blocks` makes, to the bit. */
INLINE void tile_opened(const Matrix *m, const Opened *rows, const Activations *x, int first, int type, int A, floats *out) {
    const Form f = form_of(type);
    int64_t blocks = m->cols / BLOCK;
    floats total[MOST_ACTIVATIONS] = {0}, lows[MOST_ACTIVATIONS] = {0};
    for (int64_t b = 0; b < blocks; b++)
        add_block(&f, x, first, blocks, b, NULL, rows, rows->scales + b * f.parts, rows->lows + b * f.parts, A, total, lows);
    for (int a = 0; a < A; a++) out[a] = f.has_lowers ? total[a] + lows[a] : total[a];
}

INLINE void some_blocks(const Matrix *m, const Activations *x, int first, int row, int stop, int type, int A, float *target,
                        int64_t stride, int add) {
    floats out[MOST_ACTIVATIONS];
    for (; row < stop; row += LANES) {
        if (!first) tile_blocks(m, row, x, first, type, A, 1, out);
        else tile_blocks(m, row, x, first, type, A, 0, out);
        for (int a = 0; a < A; a++) put(m, row, out[a], target + (first + a) * stride, add);
    }
}

/* Room for rows that are opened, on the stack. */
enum { OPEN_BYTES = 256 << 10, MOST_OPEN = 4, MANY_ACTIVATIONS = 2 * MOST_ACTIVATIONS };

/* Bytes of LANES opened rows. */
INLINE int64_t open_bytes(const Matrix *m, const Form *f) {
    return m->cols / BLOCK * (STEPS * (int64_t)sizeof(ints) + 2 * f->parts * (int64_t)sizeof(floats));
}

/* Multiplies the rows [row, stop), at most MOST_OPEN times LANES, with `count` activations: whole tiles of them. */
INLINE void open_blocks(const Matrix *m, const Activations *x, int count, int row, int stop, int type, char *room, float *target,
                        int64_t stride, int add) {
    const Form f = form_of(type);
    int64_t blocks = m->cols / BLOCK;
    Opened rows[MOST_OPEN];
    int num_tiles = (stop - row + LANES - 1) / LANES;
    for (int i = 0; i < num_tiles; i++, room += open_bytes(m, &f)) {
        floats *scales = (floats *)(room + blocks * STEPS * (int64_t)sizeof(ints));
        rows[i] = (Opened){(ints *)room, scales, scales + blocks * f.parts};
        open_rows(m, row + i * LANES, &f, &rows[i]);
    }
    for (int first = 0; first < count; first += MOST_ACTIVATIONS)
        for (int i = 0; i < num_tiles; i++) {
            floats out[MOST_ACTIVATIONS];
            tile_opened(m, &rows[i], x, first, type, MOST_ACTIVATIONS, out);
            for (int a = 0; a < MOST_ACTIVATIONS; a++) put(m, row + i * LANES, out[a], target + (first + a) * stride, add);
        }
}

/* A function of its own, so that a few activations do not pay for its room. */
static __attribute__((noinline)) void multiply_opened(const Matrix *m, const Activations *x, int count, int begin, int end, int type,
                                                      float *target, int64_t stride, int add) {
    const Form f = form_of(type);
    _Alignas(64) char room[OPEN_BYTES];
    int64_t at_once = OPEN_BYTES / open_bytes(m, &f);
    int size = LANES * (int)(at_once < MOST_OPEN ? at_once : MOST_OPEN);
    for (int group = begin; group < end; group += size)
        open_blocks(m, x, count, group, group + size < end ? group + size : end, type, room, target, stride, add);
}

INLINE void multiply_blocks(const Matrix *m, const Activations *x, int count, int begin, int end, int type, float *target,
                            int64_t stride, int add) {
    const Form f = form_of(type);
    int opened = 0;
    if (count >= MANY_ACTIVATIONS && open_bytes(m, &f) <= OPEN_BYTES) {
        opened = count / MOST_ACTIVATIONS * MOST_ACTIVATIONS;
        multiply_opened(m, x, opened, begin, end, type, target, stride, add);
    }
    for (int group = begin; group < end && opened < count; group += GROUP) {
        int stop = group + GROUP < end ? group + GROUP : end, first = opened;
        for (; first + MOST_ACTIVATIONS <= count; first += MOST_ACTIVATIONS)
            some_blocks(m, x, first, group, stop, type, MOST_ACTIVATIONS, target, stride, add);
        for (; MOST_ACTIVATIONS > 4 && first + 4 <= count; first += 4)
            some_blocks(m, x, first, group, stop, type, 4, target, stride, add);
        for (; first + 2 <= count; first += 2) some_blocks(m, x, first, group, stop, type, 2, target, stride, add);
        if (first < count) some_blocks(m, x, first, group, stop, type, 1, target, stride, add);
    }
}
