/* Stored codes: rows interleaved as the native step multiplies them, and blocks of 32 as floats. Sources are rows of
 * blocks, both any number of bytes apart and not aligned: what a file holds between scales. */

#include "blocks.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

enum { BLOCK = 32 };

#define INLINE static inline __attribute__((always_inline))

/* Items that are moved at a time: their targets stay in the first cache while lane after lane fills them. */
enum { TILE = 64 };

INLINE void interleave(const char *source, int64_t row_bytes, int64_t block_bytes, int64_t rows, int64_t blocks,
                       int64_t items, int64_t lanes, int64_t size, int64_t begin, int64_t end, char *target) {
    for (int64_t group = begin; group < end; group++)
        for (int64_t block = 0; block < blocks; block++)
            for (int64_t first = 0; first < items; first += TILE) {
                char *to = target + ((group * blocks + block) * items + first) * lanes * size;
                int64_t count = items - first < TILE ? items - first : TILE;
                for (int64_t lane = 0; lane < lanes; lane++) {
                    int64_t row = group * lanes + lane;
                    const char *from = source + row * row_bytes + block * block_bytes + first * size;
                    for (int64_t i = 0; i < count; i++) {
                        if (row < rows) memcpy(to + (i * lanes + lane) * size, from + i * size, size);
                        else memset(to + (i * lanes + lane) * size, 0, size);
                    }
                }
            }
}

/* target[group, block, item, lane] = source[group * lanes + lane, block, item] for groups [begin, end); rows beyond the
 * last one are zeros. */
void interleave_2(const char *source, int64_t row_bytes, int64_t block_bytes, int64_t rows, int64_t blocks, int64_t items,
                  int64_t lanes, int64_t begin, int64_t end, char *target) {
    if (lanes == 16) interleave(source, row_bytes, block_bytes, rows, blocks, items, 16, 2, begin, end, target);
    else interleave(source, row_bytes, block_bytes, rows, blocks, items, lanes, 2, begin, end, target);
}

void interleave_4(const char *source, int64_t row_bytes, int64_t block_bytes, int64_t rows, int64_t blocks, int64_t items,
                  int64_t lanes, int64_t begin, int64_t end, char *target) {
    if (lanes == 16) interleave(source, row_bytes, block_bytes, rows, blocks, items, 16, 4, begin, end, target);
    else interleave(source, row_bytes, block_bytes, rows, blocks, items, lanes, 4, begin, end, target);
}

INLINE float upper_half_at(const uint8_t *place) {
    uint16_t bits;
    memcpy(&bits, place, sizeof bits);
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* `count` floats of 16 bits as ones of 32, every `lanes`th of the target. */
INLINE void spread_halves(const uint8_t *from, int64_t count, int64_t lanes, int is_upper, float *to) {
    float wide[TILE];
    int64_t i = 0;
#if defined(__F16C__)
    for (; !is_upper && i + 8 <= count; i += 8)
        _mm256_storeu_ps(wide + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 2 * i))));
#endif
    for (; i < count; i++) wide[i] = is_upper ? upper_half_at(from + 2 * i) : block_half(from + 2 * i);
    for (i = 0; i < count; i++) to[i * lanes] = wide[i];
}

INLINE void widen(const uint8_t *source, int64_t row_bytes, int64_t rows, int64_t cols, int64_t lanes, int64_t begin,
                  int64_t end, int is_upper, float *target) {
    for (int64_t group = begin; group < end; group++)
        for (int64_t first = 0; first < cols; first += TILE) {
            float *to = target + (group * cols + first) * lanes;
            int64_t count = cols - first < TILE ? cols - first : TILE;
            for (int64_t lane = 0; lane < lanes; lane++) {
                int64_t row = group * lanes + lane;
                const uint8_t *from = source + row * row_bytes + 2 * first;
                if (row < rows) spread_halves(from, count, lanes, is_upper, to + lane);
                else for (int64_t i = 0; i < count; i++) to[i * lanes + lane] = 0.0f;
            }
        }
}

/* target[group, col, lane] = source[group * lanes + lane, col] for groups [begin, end), widened to 32 bits; rows beyond
 * the last one are zeros. The source's floats are IEEE halves, or the upper halves of floats (bfloat16). */
void widen_halves(const uint8_t *source, int64_t row_bytes, int64_t rows, int64_t cols, int64_t lanes, int64_t begin,
                  int64_t end, float *target) {
    if (lanes == 16) widen(source, row_bytes, rows, cols, 16, begin, end, 0, target);
    else widen(source, row_bytes, rows, cols, lanes, begin, end, 0, target);
}

void widen_upper_halves(const uint8_t *source, int64_t row_bytes, int64_t rows, int64_t cols, int64_t lanes,
                        int64_t begin, int64_t end, float *target) {
    if (lanes == 16) widen(source, row_bytes, rows, cols, 16, begin, end, 1, target);
    else widen(source, row_bytes, rows, cols, lanes, begin, end, 1, target);
}

/* GGUF's blocks [begin, end) as floats: a scale, then 32 bytes. */
void decode_q8_0(const uint8_t *source, int64_t begin, int64_t end, float *target) {
    for (int64_t block = begin; block < end; block++) {
        const uint8_t *from = source + block * (2 + BLOCK);
        const int8_t *codes = (const int8_t *)from + 2;
        float scale = block_half(from);
        for (int i = 0; i < BLOCK; i++) target[block * BLOCK + i] = (float)codes[i] * scale;
    }
}

/* A scale, then 16 bytes: the low halves are the first 16 numbers. */
void decode_q4_0(const uint8_t *source, int64_t begin, int64_t end, float *target) {
    for (int64_t block = begin; block < end; block++) {
        const uint8_t *from = source + block * (2 + BLOCK / 2);
        float scale = block_half(from), *to = target + block * BLOCK;
        for (int i = 0; i < BLOCK / 2; i++) {
            to[i] = (float)((from[2 + i] & 15) - 8) * scale;
            to[i + BLOCK / 2] = (float)((from[2 + i] >> 4) - 8) * scale;
        }
    }
}

/* A scale and a minimum, then 16 bytes. */
void decode_q4_1(const uint8_t *source, int64_t begin, int64_t end, float *target) {
    for (int64_t block = begin; block < end; block++) {
        const uint8_t *from = source + block * (4 + BLOCK / 2);
        float scale = block_half(from), minimum = block_half(from + 2), *to = target + block * BLOCK;
        for (int i = 0; i < BLOCK / 2; i++) {
            to[i] = (float)(from[4 + i] & 15) * scale + minimum;
            to[i + BLOCK / 2] = (float)(from[4 + i] >> 4) * scale + minimum;
        }
    }
}

INLINE void decode_sub_block(float scale, float minimum, int columns, int centre, const int8_t *table, int has_lower,
                             const uint8_t *codes, float *to) {
    for (int i = 0; i < columns; i++) {
        float scaled = scale * (float)(table ? table[codes[i]] : codes[i] - centre);
        to[i] = has_lower ? scaled - minimum : scaled;
    }
}

INLINE void decode_type(int type, const uint8_t *source, int64_t begin, int64_t end, float *target) {
    const BlockType said = BLOCK_TYPES[type];
    for (int64_t at = begin; at < end; at++) {
        Block block;
        unpack_block(type, source + at * said.bytes, &block);
        for (int sub = 0; sub < said.columns / said.sub; sub++) {
            float scale = block.scale * (float)block.factors[sub];
            float minimum = said.has_lowers ? block.minimum * (float)block.lowers[sub] : 0.0f;
            decode_sub_block(scale, minimum, said.sub, said.centre, said.table, said.has_lowers,
                             block.codes + sub * said.sub, target + at * said.columns + sub * said.sub);
        }
    }
}

#define DECODE_TYPE(type)                                                                                                  \
    case type: decode_type(type, source, begin, end, target); return

/* Blocks [begin, end) of a type (see blocks.h) as floats. */
void decode_blocks(int64_t type, const uint8_t *source, int64_t begin, int64_t end, float *target) {
    switch (type) {
        DECODE_TYPE(BLOCK_Q2_K);
        DECODE_TYPE(BLOCK_Q3_K);
        DECODE_TYPE(BLOCK_Q4_K);
        DECODE_TYPE(BLOCK_Q5_K);
        DECODE_TYPE(BLOCK_Q6_K);
        DECODE_TYPE(BLOCK_Q8_K);
        DECODE_TYPE(BLOCK_Q5_0);
        DECODE_TYPE(BLOCK_Q5_1);
        DECODE_TYPE(BLOCK_IQ4_NL);
        DECODE_TYPE(BLOCK_IQ4_XS);
        DECODE_TYPE(BLOCK_MXFP4);
    }
}
