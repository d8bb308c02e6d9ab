/* What matrices of all types share: rounding activations, finding a type's product, reading one row. */

#include "step_matrix.h"

void quantise(
    const float *values, int8_t *codes, float *scales, float *sums, int32_t *totals, int begin, int end) {
    for (int b = begin; b < end; b++) {
        float largest = largest_of(values + b * BLOCK, BLOCK);
        scales[b] = largest / 127.0f;
        int32_t total = round_to_codes(values + b * BLOCK, codes + b * BLOCK, BLOCK, largest > 0 ? 127.0f / largest : 0);
        sums[b] = scales[b] * (float)total;
        totals[b] = -OFFSET * total;
    }
}

void multiply(
    const Matrix *m, const Activations *x, int count, int begin, int end, float *target, int64_t stride, int add) {
    switch (m->type) {
    case F32: return multiply_fp32(m, x, count, begin, end, target, stride, add);
    case F16: return multiply_fp16(m, x, count, begin, end, target, stride, add);
    case Q8: return multiply_q8(m, x, count, begin, end, target, stride, add);
    default: return multiply_q4(m, x, count, begin, end, target, stride, add);
    }
}

void expand_row(const Matrix *m, int row, float *target) {
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
