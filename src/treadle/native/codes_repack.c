/* GGUF's blocks as the native step multiplies them (step_blocks.h): rows interleaved, codes in planes of bits. */

#include "blocks.h"
#include "mirror.h"

/* Where things of one matrix go. */
typedef struct {
    uint8_t *data;    /* [groups, blocks of 32, vectors, lanes, 4] */
    uint16_t *halves; /* [groups, scales, 1 or 2, lanes] */
    uint8_t *factors; /* [groups, blocks of 32, parts * (1 or 2), lanes] */
    int64_t lanes, blocks;
} Packed;

BLOCK_INLINE int is_wide(int type) { return BLOCK_TYPES[type].bits > 3; }

BLOCK_INLINE int vectors_above(int type) { return BLOCK_TYPES[type].bits - (is_wide(type) ? 4 : 2); }

/* Writes the vectors of 32 codes of a lane, `step` bytes apart. */
BLOCK_INLINE void put_codes(int type, const uint8_t *codes, uint8_t *to, int64_t step) {
    uint32_t four[8];
    int low = is_wide(type) ? 4 : 2;
    memcpy(four, codes, sizeof four);
    for (int i = 0; i < low; i++, to += step) {
        uint32_t all = 0;
        if (low == 4) all = (four[i] & 0x0f0f0f0fu) | (four[i + 4] & 0x0f0f0f0fu) << 4;
        else
            for (int j = 0; j < 4; j++) all |= (four[4 * i + j] & 0x03030303u) << 2 * j;
        memcpy(to, &all, sizeof all);
    }
    for (int i = 0; i < vectors_above(type); i++, to += step) {
        uint32_t all = 0;
        for (int s = 0; vectors_above(type) == 1 && s < 8; s++) all |= (four[s] >> low & 0x01010101u) << s;
        for (int j = 0; vectors_above(type) == 2 && j < 4; j++) all |= (four[4 * i + j] >> low & 0x03030303u) << 2 * j;
        memcpy(to, &all, sizeof all);
    }
}

/* Writes a row's block, whose first 32 columns are number `first` of the matrix. */
BLOCK_INLINE void put_block(int type, const uint8_t *raw, const Packed *p, int64_t group, int64_t first, int64_t lane) {
    const BlockType *own = &BLOCK_TYPES[type];
    int vectors = (is_wide(type) ? 4 : 2) + vectors_above(type), runs = own->columns / 32, parts = 32 / own->sub;
    int each = 1 + own->has_lowers, is_super = own->columns > 32, is_shared = type == BLOCK_Q2_K;
    Block block;
    unpack_block(type, raw, &block);
    for (int run = 0; run < runs; run++) {
        int64_t at = group * p->blocks + first + run;
        put_codes(type, block.codes + 32 * run, p->data + (at * vectors * p->lanes + lane) * 4, 4 * p->lanes);
        uint8_t *factors = p->factors + at * parts * (is_shared ? 1 : each) * p->lanes + lane;
        for (int part = 0; is_super && part < parts; part++) {
            factors[part * p->lanes] = is_shared ? raw[run * parts + part] : (uint8_t)block.factors[run * parts + part];
            if (own->has_lowers && !is_shared) factors[(parts + part) * p->lanes] = block.lowers[run * parts + part];
        }
        if (type == BLOCK_MXFP4) factors[0] = raw[0];
    }
    if (type == BLOCK_MXFP4) return;
    /* Halves are taken as they lie: scale, then minimum; those of the first type stand behind its codes. */
    static const int16_t places[NUM_BLOCK_TYPES] = {[BLOCK_Q2_K] = 80, [BLOCK_Q3_K] = 108, [BLOCK_Q6_K] = 208};
    uint16_t *halves = p->halves + (group * p->blocks + first) / runs * each * p->lanes + lane;
    for (int i = 0; i < each; i++) memcpy(halves + i * p->lanes, raw + places[type] + 2 * i, 2);
}

BLOCK_INLINE void repack(int type, const uint8_t *raw, int64_t row_stride, int64_t rows, const Packed *p, int64_t begin, int64_t end) {
    const BlockType *own = &BLOCK_TYPES[type];
    int runs = own->columns / 32;
    for (int64_t group = begin; group < end; group++)
        for (int64_t lane = 0; lane < p->lanes && group * p->lanes + lane < rows; lane++) {
            const uint8_t *from = raw + (group * p->lanes + lane) * row_stride;
            for (int64_t b = 0; b < p->blocks; b += runs, from += own->bytes) put_block(type, from, p, group, b, lane);
        }
}

/* Packs the groups [begin, end) of `lanes` rows; what lies behind the last row stays as it is. */
void repack_blocks(int32_t type, const uint8_t *raw, int64_t row_stride, int64_t rows, int64_t blocks, int64_t lanes, int64_t begin,
                   int64_t end, uint8_t *data, uint16_t *halves, uint8_t *factors) {
    const Packed p = {data, halves, factors, lanes, blocks};
#define ONE(TYPE)                                                                                                          \
    case TYPE: repack(TYPE, raw, row_stride, rows, &p, begin, end); return;
    switch (type) {
        ONE(BLOCK_Q2_K)
        ONE(BLOCK_Q3_K)
        ONE(BLOCK_Q4_K)
        ONE(BLOCK_Q5_K)
        ONE(BLOCK_Q6_K)
        ONE(BLOCK_Q5_0)
        ONE(BLOCK_Q5_1)
        ONE(BLOCK_IQ4_NL)
        ONE(BLOCK_IQ4_XS)
        ONE(BLOCK_MXFP4)
    }
#undef ONE
}
