/* Stored codes: rows interleaved as the native step multiplies them, and blocks of 32 as floats. Sources are rows of
 * blocks, both any number of bytes apart and not aligned: what a file holds between scales. */

#include <stdint.h>
#include <string.h>

enum { BLOCK = 32 };

#define INLINE static inline __attribute__((always_inline))

INLINE void interleave(const char *source, int64_t row_bytes, int64_t block_bytes, int64_t rows, int64_t blocks,
                       int64_t items, int64_t lanes, int64_t size, int64_t begin, int64_t end, char *target) {
    for (int64_t group = begin; group < end; group++)
        for (int64_t block = 0; block < blocks; block++) {
            char *to = target + (group * blocks + block) * items * lanes * size;
            for (int64_t lane = 0; lane < lanes; lane++) {
                int64_t row = group * lanes + lane;
                const char *from = source + row * row_bytes + block * block_bytes;
                for (int64_t i = 0; i < items; i++) {
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

INLINE float half_at(const uint8_t *place) {
    _Float16 value;
    memcpy(&value, place, sizeof value);
    return (float)value;
}

/* GGUF's blocks [begin, end) as floats: a scale, then 32 bytes. */
void decode_q8_0(const uint8_t *source, int64_t begin, int64_t end, float *target) {
    for (int64_t block = begin; block < end; block++) {
        const uint8_t *from = source + block * (2 + BLOCK);
        const int8_t *codes = (const int8_t *)from + 2;
        float scale = half_at(from);
        for (int i = 0; i < BLOCK; i++) target[block * BLOCK + i] = (float)codes[i] * scale;
    }
}

/* A scale, then 16 bytes: the low halves are the first 16 numbers. */
void decode_q4_0(const uint8_t *source, int64_t begin, int64_t end, float *target) {
    for (int64_t block = begin; block < end; block++) {
        const uint8_t *from = source + block * (2 + BLOCK / 2);
        float scale = half_at(from), *to = target + block * BLOCK;
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
        float scale = half_at(from), minimum = half_at(from + 2), *to = target + block * BLOCK;
        for (int i = 0; i < BLOCK / 2; i++) {
            to[i] = (float)(from[4 + i] & 15) * scale + minimum;
            to[i + BLOCK / 2] = (float)(from[4 + i] >> 4) * scale + minimum;
        }
    }
}
