/* What matrices of all types share: rounding activations, finding a type's product, reading one row. */

#include "step_matrix.h"

#include <stdlib.h>

void quantise(const Activations *x, int begin, int end) {
    for (int b = begin; b < end; b++) {
        const float *values = x->values + b * BLOCK;
        float largest = largest_of(values, BLOCK), factor = largest > 0 ? 127.0f / largest : 0;
        int32_t *parts = x->sixteens + 2 * b, half = BLOCK / 2;
        for (int part = 0; part < 2; part++)
            parts[part] = round_to_codes(values + part * half, x->codes + b * BLOCK + part * half, half, factor);
        int32_t total = parts[0] + parts[1];
        x->scales[b] = largest / 127.0f;
        x->sums[b] = x->scales[b] * (float)total;
        x->totals[b] = -OFFSET * total;
    }
}

void multiply(
    const Matrix *m, const Activations *x, int count, int begin, int end, float *target, int64_t stride, int add) {
    switch (m->type) {
    case F32: return multiply_fp32(m, x, count, begin, end, target, stride, add);
    case F16: return multiply_fp16(m, x, count, begin, end, target, stride, add);
    case Q8: return multiply_q8(m, x, count, begin, end, target, stride, add);
    case Q4: return multiply_q4(m, x, count, begin, end, target, stride, add);
    case Q2_K: return multiply_q2_k(m, x, count, begin, end, target, stride, add);
    case Q3_K: return multiply_q3_k(m, x, count, begin, end, target, stride, add);
    case Q4_K: return multiply_q4_k(m, x, count, begin, end, target, stride, add);
    case Q5_K: return multiply_q5_k(m, x, count, begin, end, target, stride, add);
    case Q6_K: return multiply_q6_k(m, x, count, begin, end, target, stride, add);
    case Q5_0: return multiply_q5_0(m, x, count, begin, end, target, stride, add);
    case Q5_1: return multiply_q5_1(m, x, count, begin, end, target, stride, add);
    case IQ4_NL: return multiply_iq4_nl(m, x, count, begin, end, target, stride, add);
    case IQ4_XS: return multiply_iq4_xs(m, x, count, begin, end, target, stride, add);
    default: return multiply_mxfp4(m, x, count, begin, end, target, stride, add);
    }
}

void expand_row(const Matrix *m, int row, float *target) {
    if (m->type > Q4) {
        expand_blocks(m, row, target);
        return;
    }
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

/* One product as a step makes it, for who measures or checks: target[i, r] = m[r] . values[i], by one thread. Returns 0, or 1
 * if there is no memory. */
int32_t step_product(const Matrix *m, const float *values, int32_t count, float *target) {
    int64_t cols = m->cols, blocks = cols / BLOCK, numbers = count * cols;
    char *memory = malloc((size_t)(numbers + 20 * count * blocks) + 64);
    if (!memory) return 1;
    float *scales = (float *)memory, *sums = scales + count * blocks;
    int32_t *totals = (int32_t *)(sums + count * blocks), *sixteens = totals + count * blocks;
    int8_t *codes = (int8_t *)(sixteens + 2 * count * blocks);
    Activations x = {(float *)values, codes, scales, sums, totals, sixteens};
    for (int i = 0; i < count && m->type >= Q8; i++) {
        int64_t at = i * blocks;
        const Activations row = {(float *)values + i * cols, codes + i * cols, scales + at, sums + at, totals + at, sixteens + 2 * at};
        quantise(&row, 0, (int)blocks);
    }
    multiply(m, &x, count, 0, m->rows, target, m->rows, 0);
    free(memory);
    return 0;
}

/* Row `row` of a matrix, as a step reads a token's embedding. */
void step_row(const Matrix *m, int32_t row, float *target) { expand_row(m, row, target); }
