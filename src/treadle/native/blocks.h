/* GGUF's blocks, all in one description: weight = (scale * factor) * value - minimum * lower, where the factor and the
 * lower bound are those of the weight's sub-block, and the value is the code less the centre, or what a table says of it.
 * Plain C11, without other headers of ours. */

#pragma once

#include <stdint.h>
#include <string.h>

#define BLOCK_INLINE static inline __attribute__((always_inline, unused))

enum { MOST_BLOCK_COLUMNS = 256, MOST_SUB_BLOCKS = 16 };

/* The order is that of TYPES in native/blocks.py. */
enum {
    BLOCK_Q2_K, BLOCK_Q3_K, BLOCK_Q4_K, BLOCK_Q5_K, BLOCK_Q6_K, BLOCK_Q8_K,
    BLOCK_Q5_0, BLOCK_Q5_1, BLOCK_IQ4_NL, BLOCK_IQ4_XS, BLOCK_MXFP4, NUM_BLOCK_TYPES,
};

typedef struct {
    uint8_t codes[MOST_BLOCK_COLUMNS];
    int8_t factors[MOST_SUB_BLOCKS];
    uint8_t lowers[MOST_SUB_BLOCKS];
    float scale, minimum;
} Block;

typedef struct {
    int16_t columns, bytes, sub, bits, centre;
    const int8_t *table; /* 16 values, or null */
    int8_t has_lowers;
} BlockType;

static const int8_t BLOCK_UNEVEN[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t BLOCK_FLOATS_OF_4_BITS[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

__attribute__((unused)) static const BlockType BLOCK_TYPES[NUM_BLOCK_TYPES] = {
    [BLOCK_Q2_K] = {256, 84, 16, 2, 0, 0, 1},
    [BLOCK_Q3_K] = {256, 110, 16, 3, 4, 0, 0},
    [BLOCK_Q4_K] = {256, 144, 32, 4, 0, 0, 1},
    [BLOCK_Q5_K] = {256, 176, 32, 5, 0, 0, 1},
    [BLOCK_Q6_K] = {256, 210, 16, 6, 32, 0, 0},
    [BLOCK_Q8_K] = {256, 292, 32, 8, 128, 0, 0},
    [BLOCK_Q5_0] = {32, 22, 32, 5, 16, 0, 0},
    [BLOCK_Q5_1] = {32, 24, 32, 5, 0, 0, 1},
    [BLOCK_IQ4_NL] = {32, 18, 32, 4, 0, BLOCK_UNEVEN, 0},
    [BLOCK_IQ4_XS] = {256, 136, 32, 4, 0, BLOCK_UNEVEN, 0},
    [BLOCK_MXFP4] = {32, 17, 32, 4, 0, BLOCK_FLOATS_OF_4_BITS, 0},
};

BLOCK_INLINE float block_half(const uint8_t *place) {
    _Float16 value;
    memcpy(&value, place, sizeof value);
    return (float)value;
}

BLOCK_INLINE float block_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The low halves of `bytes` bytes, then the high ones. */
BLOCK_INLINE void unpack_halves(const uint8_t *from, int bytes, uint8_t *to) {
    for (int i = 0; i < bytes; i++) to[i] = from[i] & 15;
    for (int i = 0; i < bytes; i++) to[bytes + i] = from[i] >> 4;
}

/* 64 bytes as codes of 2 bits: of each 32 bytes the lowest pairs of bits, then the next ones. */
BLOCK_INLINE void unpack_pairs(const uint8_t *from, uint8_t *to) {
    for (int half = 0; half < 2; half++)
        for (int pair = 0; pair < 4; pair++)
            for (int i = 0; i < 32; i++) to[128 * half + 32 * pair + i] = (from[32 * half + i] >> (2 * pair)) & 3;
}

/* Adds to the codes of each 32 columns a bit of each of 32 bytes, the lowest first. */
BLOCK_INLINE void add_bits(const uint8_t *from, int place, uint8_t *codes) {
    for (int run = 0; run < 8; run++)
        for (int i = 0; i < 32; i++) codes[32 * run + i] |= (uint8_t)(((from[i] >> run) & 1) << place);
}

/* The factors and lower bounds of Q4_K and Q5_K: 8 of each, of 6 bits, in 12 bytes. */
BLOCK_INLINE void unpack_sixes(const uint8_t *from, Block *to) {
    for (int i = 0; i < 4; i++) {
        to->factors[i] = (int8_t)(from[i] & 63);
        to->lowers[i] = from[4 + i] & 63;
        to->factors[4 + i] = (int8_t)((from[8 + i] & 15) | ((from[i] >> 2) & 0x30));
        to->lowers[4 + i] = (uint8_t)((from[8 + i] >> 4) | ((from[4 + i] >> 2) & 0x30));
    }
}

BLOCK_INLINE void unpack_q2_k(const uint8_t *raw, Block *to) {
    for (int sub = 0; sub < 16; sub++) {
        to->factors[sub] = raw[sub] & 15;
        to->lowers[sub] = raw[sub] >> 4;
    }
    unpack_pairs(raw + 16, to->codes);
    to->scale = block_half(raw + 80), to->minimum = block_half(raw + 82);
}

BLOCK_INLINE void unpack_q3_k(const uint8_t *raw, Block *to) {
    const uint8_t *factors = raw + 96;
    unpack_pairs(raw + 32, to->codes);
    add_bits(raw, 2, to->codes);
    for (int sub = 0; sub < 16; sub++) {
        int low = (factors[sub % 8] >> (sub / 8 * 4)) & 15, high = (factors[8 + sub % 4] >> (sub / 4 * 2)) & 3;
        to->factors[sub] = (int8_t)((low | high << 4) - 32);
    }
    to->scale = block_half(raw + 108);
}

BLOCK_INLINE void unpack_q4_k(const uint8_t *raw, Block *to) {
    to->scale = block_half(raw), to->minimum = block_half(raw + 2);
    unpack_sixes(raw + 4, to);
    for (int part = 0; part < 4; part++) unpack_halves(raw + 16 + 32 * part, 32, to->codes + 64 * part);
}

BLOCK_INLINE void unpack_q5_k(const uint8_t *raw, Block *to) {
    to->scale = block_half(raw), to->minimum = block_half(raw + 2);
    unpack_sixes(raw + 4, to);
    for (int part = 0; part < 4; part++) unpack_halves(raw + 48 + 32 * part, 32, to->codes + 64 * part);
    add_bits(raw + 16, 4, to->codes);
}

BLOCK_INLINE void unpack_q6_k(const uint8_t *raw, Block *to) {
    uint8_t high[MOST_BLOCK_COLUMNS];
    for (int half = 0; half < 2; half++) unpack_halves(raw + 64 * half, 64, to->codes + 128 * half);
    unpack_pairs(raw + 128, high);
    for (int i = 0; i < MOST_BLOCK_COLUMNS; i++) to->codes[i] |= (uint8_t)(high[i] << 4);
    memcpy(to->factors, raw + 192, 16);
    to->scale = block_half(raw + 208);
}

/* Its sums of 16 codes are left out: they follow from the codes. */
BLOCK_INLINE void unpack_q8_k(const uint8_t *raw, Block *to) {
    memcpy(&to->scale, raw, sizeof to->scale);
    for (int i = 0; i < MOST_BLOCK_COLUMNS; i++) to->codes[i] = raw[4 + i] ^ 128;
    memset(to->factors, 1, 8);
}

BLOCK_INLINE void unpack_fives(const uint8_t *raw, Block *to) {
    uint32_t bits;
    memcpy(&bits, raw, sizeof bits);
    unpack_halves(raw + 4, 16, to->codes);
    for (int i = 0; i < 32; i++) to->codes[i] |= (uint8_t)(((bits >> i) & 1) << 4);
    to->factors[0] = 1;
}

BLOCK_INLINE void unpack_q5_0(const uint8_t *raw, Block *to) {
    to->scale = block_half(raw);
    unpack_fives(raw + 2, to);
}

/* Its minimum is added; here it is subtracted. */
BLOCK_INLINE void unpack_q5_1(const uint8_t *raw, Block *to) {
    to->scale = block_half(raw), to->minimum = -block_half(raw + 2);
    unpack_fives(raw + 4, to);
    to->lowers[0] = 1;
}

BLOCK_INLINE void unpack_iq4_nl(const uint8_t *raw, Block *to) {
    to->scale = block_half(raw);
    unpack_halves(raw + 2, 16, to->codes);
    to->factors[0] = 1;
}

BLOCK_INLINE void unpack_iq4_xs(const uint8_t *raw, Block *to) {
    to->scale = block_half(raw);
    for (int sub = 0; sub < 8; sub++) {
        int low = (raw[4 + sub / 2] >> (sub % 2 * 4)) & 15, high = (raw[2 + sub / 4] >> (sub % 4 * 2)) & 3;
        to->factors[sub] = (int8_t)((low | high << 4) - 32);
        unpack_halves(raw + 8 + 16 * sub, 16, to->codes + 32 * sub);
    }
}

/* Its scale is an exponent, of half the weights' unit: the table holds twice the values. */
BLOCK_INLINE void unpack_mxfp4(const uint8_t *raw, Block *to) {
    to->scale = block_float(raw[0] < 2 ? 0x00200000u << raw[0] : (uint32_t)(raw[0] - 1) << 23);
    unpack_halves(raw + 1, 16, to->codes);
    to->factors[0] = 1;
}

/* Of a type that is known while compiling, all that depends on it falls away. */
BLOCK_INLINE void unpack_block(int type, const uint8_t *raw, Block *to) {
    switch (type) {
    case BLOCK_Q2_K: unpack_q2_k(raw, to); return;
    case BLOCK_Q3_K: unpack_q3_k(raw, to); return;
    case BLOCK_Q4_K: unpack_q4_k(raw, to); return;
    case BLOCK_Q5_K: unpack_q5_k(raw, to); return;
    case BLOCK_Q6_K: unpack_q6_k(raw, to); return;
    case BLOCK_Q8_K: unpack_q8_k(raw, to); return;
    case BLOCK_Q5_0: unpack_q5_0(raw, to); return;
    case BLOCK_Q5_1: unpack_q5_1(raw, to); return;
    case BLOCK_IQ4_NL: unpack_iq4_nl(raw, to); return;
    case BLOCK_IQ4_XS: unpack_iq4_xs(raw, to); return;
    default: unpack_mxfp4(raw, to); return;
    }
}
