/* One row of a matrix of GGUF's blocks as numbers: a token's embedding. */

#include "step_blocks.h"

/* The code of column c of a block whose vectors of LANES rows begin at `w`, without the table's or the form's centre. */
static int code_at(const Form *f, const uint8_t *w, int lane, int c) {
    int s = c / 4, byte = lane * 4 + c % 4;
    const uint8_t *above = w + f->low * LANES * 4;
    int code = f->low == 4 ? w[s % 4 * LANES * 4 + byte] >> s / 4 * 4 & 15 : w[s / 4 * LANES * 4 + byte] >> s % 4 * 2 & 3;
    if (f->high == 1) code |= (above[byte] >> s & 1) << f->low;
    if (f->high == 2) code |= (above[s / 4 * LANES * 4 + byte] >> s % 4 * 2 & 3) << 4;
    if (f->table == UNEVEN && OFFSET) return (uint8_t)TABLES[UNEVEN][code] - OFFSET;
    return f->table ? TABLES[f->table][code] - f->centre : code - f->centre;
}

void expand_blocks(const Matrix *m, int row, float *target) {
    const Form f = form_of(m->type);
    int64_t blocks = m->cols / BLOCK, from = row / LANES * blocks;
    int vectors = vectors_of(&f), lane = row % LANES, width = BLOCK / f.parts;
    for (int64_t b = 0; b < blocks; b++) {
        const uint8_t *w = (const uint8_t *)m->data + (from + b) * vectors * LANES * 4;
        floats scales[2], lows[2];
        scales_at(m, &f, from + b, (from + b) / (f.columns / BLOCK), scales, lows);
        for (int c = 0; c < BLOCK; c++) {
            float value = scales[c / width][lane] * (float)code_at(&f, w, lane, c);
            target[b * BLOCK + c] = f.has_lowers ? value + lows[c / width][lane] : value;
        }
    }
}
