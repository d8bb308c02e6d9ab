/* Products with 8-bit or 4-bit weights; a unit includes it and makes those of one type. */

#pragma once

#include "step_matrix.h"

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
