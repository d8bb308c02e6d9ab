/* Matrices [rows, cols] times activations: float32, float16, 8-bit and 4-bit weights.
 *
 * LANES rows are interleaved: floats one column of each at a time, codes four, so that one vector instruction multiplies
 * one or four columns of LANES rows. Quantised weights stand in blocks of 32 columns with a half-precision scale (and
 * minimum) each; activations are rounded to 8 bits by the same blocks. A tile of weight rows meets a tile of activations;
 * whatever the tile, the products of one pair are added in the same order. */

#pragma once

#include "mirror.h"
#include "step_vector.h"

enum { F32 = 0, F16 = 1, Q8 = 2, Q4 = 3, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q5_0, Q5_1, IQ4_NL, IQ4_XS, MXFP4 }; /* from Q2_K on as in runtime/linear/blocks.py */
enum { BLOCK = 32, STEPS = BLOCK / 4 };
/* Activations of a tile: what the machine has registers for. */
enum { MOST_ACTIVATIONS = LANES == 16 ? 8 : 4 };
/* Rows that stay in the cache while all activations pass, at most. */
enum { GROUP = 64 };

/* Eight-bit codes are stored with this offset, where the machine multiplies unsigned by signed bytes exactly. */
#if (defined(__AVX512VNNI__) && defined(__AVX512F__)) || (defined(__AVXVNNI__) && !defined(__AVX512F__))
enum { OFFSET = 128 };
#else
enum { OFFSET = 0 };
#endif

#define MATRIX_FIELDS(F)                                                                                                   \
    F(int32_t, type)                                                                                                       \
    F(int32_t, rows)                                                                                                       \
    F(int32_t, cols)                                                                                                       \
    F(int32_t, unused)                                                                                                     \
    F(const void *, data) /* float or half [rows / LANES, cols, LANES]; or codes [rows / LANES, blocks, STEPS (4 bits:     \
                           * STEPS / 2), LANES, 4], where a byte of 4-bit codes holds a column of step s and that of step  \
                           * s + STEPS / 2; or see step_blocks.h */                                                        \
    F(const uint16_t *, scales) /* [rows / LANES, blocks, LANES] */                                                        \
    F(const uint16_t *, minima) /* the same, of 4-bit weights: weight = scale * code + minimum */                          \
    F(const uint8_t *, factors) /* of other blocks, see step_blocks.h; or null */                                          \
    F(const float *, bias)      /* [rows], or null */
MIRRORED(Matrix, MATRIX_FIELDS);

typedef struct {
    float *values; /* [count, cols] */
    int8_t *codes; /* [count, cols] */
    float *scales; /* [count, cols / 32] */
    float *sums;   /* [count, cols / 32]: scale times the sum of the codes */
    int32_t *totals; /* [count, cols / 32]: that sum, times -OFFSET */
    int32_t *sixteens; /* [count, cols / 16]: the sum of the codes of 16 columns */
} Activations;

#pragma GCC visibility push(hidden)

/* Rounds blocks [begin, end) of the first row to 8 bits. */
void quantise(const Activations *x, int begin, int end);

/* target[i, r] (+)= m[r] . x[i] for the rows [begin, end) of m and all `count` activations; `begin` is a multiple of
 * LANES. */
void multiply(const Matrix *m, const Activations *x, int count, int begin, int end, float *target, int64_t stride, int add);

/* The same for one type of weights; each is a unit of its own, because it takes long to compile. */
typedef void Multiply(
    const Matrix *m, const Activations *x, int count, int begin, int end, float *target, int64_t stride, int add);
Multiply multiply_fp32, multiply_fp16, multiply_q8, multiply_q4;
Multiply multiply_q2_k, multiply_q3_k, multiply_q4_k, multiply_q5_k, multiply_q6_k;
Multiply multiply_q5_0, multiply_q5_1, multiply_iq4_nl, multiply_iq4_xs, multiply_mxfp4;

/* Writes row `row` of a matrix of these blocks as float32. */
void expand_blocks(const Matrix *m, int row, float *target);

/* Writes row `row` of a matrix as float32. */
void expand_row(const Matrix *m, int row, float *target);

#pragma GCC visibility pop

/* While a tile is multiplied, later ones come from memory: what the processor foresees by itself is too little when several
 * activations share a weight. A matrix's end is followed by the next matrix (runtime/linear/arena.py). */
INLINE void will_read(const void *place) { __builtin_prefetch(place, 0, 2); }

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
