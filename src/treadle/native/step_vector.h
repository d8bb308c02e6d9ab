/* Vectors of float32, as wide as the machine has them. Sums run in a fixed order, so that a dot product has the same
 * bits whatever else is computed beside it. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef float floats8 __attribute__((vector_size(32)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef int8_t bytes __attribute__((vector_size(LANES)));

#define INLINE static inline __attribute__((always_inline))

INLINE floats load(const float *source) {
    floats value;
    memcpy(&value, source, sizeof value);
    return value;
}

INLINE void store(float *target, floats value) { memcpy(target, &value, sizeof value); }

INLINE floats spread(float value) { return value - (floats){0}; }

INLINE floats fused(floats a, floats b, floats c) {
#if defined(__AVX512F__)
    return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    for (int lane = 0; lane < LANES; lane++) c[lane] = fmaf(a[lane], b[lane], c[lane]);
    return c;
#endif
}

INLINE floats8 fused8(floats8 a, floats8 b, floats8 c) {
#if defined(__FMA__)
    return (floats8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    for (int lane = 0; lane < 8; lane++) c[lane] = fmaf(a[lane], b[lane], c[lane]);
    return c;
#endif
}

/* The low and the high halves of LANES bytes as numbers. */
INLINE void halves_of(const uint8_t *source, floats *low, floats *high) {
#if defined(__AVX512F__)
    __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)source));
    *low = (floats)_mm512_cvtepi32_ps(_mm512_and_si512(wide, _mm512_set1_epi32(15)));
    *high = (floats)_mm512_cvtepi32_ps(_mm512_srli_epi32(wide, 4));
#elif defined(__AVX2__)
    __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)source));
    *low = (floats)_mm256_cvtepi32_ps(_mm256_and_si256(wide, _mm256_set1_epi32(15)));
    *high = (floats)_mm256_cvtepi32_ps(_mm256_srli_epi32(wide, 4));
#else
    for (int lane = 0; lane < LANES; lane++) {
        (*low)[lane] = source[lane] & 15;
        (*high)[lane] = source[lane] >> 4;
    }
#endif
}

INLINE float sum8(floats8 v) {
    float a = v[0] + v[4], b = v[1] + v[5], c = v[2] + v[6], d = v[3] + v[7];
    return (a + c) + (b + d);
}

INLINE float sum(floats v) {
#if defined(__AVX512F__)
    floats8 low, high;
    memcpy(&low, &v, sizeof low);
    memcpy(&high, (const char *)&v + sizeof low, sizeof high);
    return sum8(low + high);
#else
    return sum8(v);
#endif
}

/* IEEE half precision, `LANES` at a time and one at a time. */
INLINE float half_of(uint16_t bits) {
#if defined(__F16C__)
    return _cvtsh_ss(bits);
#else
    _Float16 value;
    memcpy(&value, &bits, sizeof value);
    return (float)value;
#endif
}

INLINE floats load_half(const uint16_t *source) {
#if defined(__AVX512F__)
    return (floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)source));
#elif defined(__F16C__)
    return (floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)source));
#else
    floats value;
    for (int lane = 0; lane < LANES; lane++) value[lane] = half_of(source[lane]);
    return value;
#endif
}

/* The lower or the upper 16 bits of LANES words, as halves. */
INLINE floats half_scales(const float *source, int is_high) {
#if defined(__AVX512F__)
    __m512i words = _mm512_loadu_si512(source);
    return (floats)_mm512_cvtph_ps(_mm512_cvtepi32_epi16(is_high ? _mm512_srli_epi32(words, 16) : words));
#else
    floats value;
    for (int lane = 0; lane < LANES; lane++) {
        uint32_t both;
        memcpy(&both, source + lane, sizeof both);
        value[lane] = half_of((uint16_t)(is_high ? both >> 16 : both));
    }
    return value;
#endif
}

/* LANES bytes as numbers. */
INLINE floats floats_of(const int8_t *source) {
#if defined(__AVX512F__)
    return (floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)source)));
#elif defined(__AVX2__)
    return (floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)source)));
#else
    floats value;
    for (int lane = 0; lane < LANES; lane++) value[lane] = source[lane];
    return value;
#endif
}

INLINE uint16_t to_half(float value) {
#if defined(__F16C__)
    return (uint16_t)_cvtss_sh(value, 0);
#else
    _Float16 half = (_Float16)value;
    uint16_t bits;
    memcpy(&bits, &half, sizeof bits);
    return bits;
#endif
}

INLINE floats choose(ints mask, floats yes, floats no) { return (floats)(((ints)yes & mask) | ((ints)no & ~mask)); }

INLINE float dot(const float *left, const float *right, int count) {
    floats total = {0};
    int c = 0;
    for (; c + LANES <= count; c += LANES) total = fused(load(left + c), load(right + c), total);
    float rest = 0;
    for (; c < count; c++) rest = fmaf(left[c], right[c], rest);
    return sum(total) + rest;
}

/* The larger of each pair; b where one of them is NaN. */
INLINE floats larger(floats a, floats b) {
#if defined(__AVX512F__)
    return (floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (floats)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return choose(a > b, a, b); /* NaN is larger than nothing */
#endif
}

INLINE float most(floats v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#elif defined(__AVX__)
    __m128 four = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
#else
    float largest = v[0];
    for (int lane = 1; lane < LANES; lane++) largest = v[lane] > largest ? v[lane] : largest;
    return largest;
#endif
}

INLINE int32_t total_of(ints v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t total = 0;
    for (int lane = 0; lane < LANES; lane++) total += v[lane];
    return total;
#endif
}

/* 2^x to about a unit in the last place; 0 where it is no normal number, NaN of NaN. */
INLINE floats power_of_two(floats x) {
#if defined(__AVX512F__)
    floats clipped = larger(spread(-200.0f), x);
    floats rounded = (floats)_mm512_roundscale_ps((__m512)clipped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    floats clipped = larger(spread(-127.0f), x);
    floats rounded = (clipped + 12582912.0f) - 12582912.0f;
#endif
    floats rest = clipped - rounded;
    floats power = spread(1.535336188319500e-4f);
    power = fused(power, rest, spread(1.339887440266574e-3f));
    power = fused(power, rest, spread(9.618437357674640e-3f));
    power = fused(power, rest, spread(5.550332471162809e-2f));
    power = fused(power, rest, spread(2.402264791363012e-1f));
    power = fused(power, rest, spread(6.931472028550421e-1f));
    power = fused(power, rest, spread(1.0f));
#if defined(__AVX512F__)
    return (floats)_mm512_scalef_ps((__m512)power, (__m512)rounded);
#else
    ints exponent = (__builtin_convertvector(rounded, ints) + 127) << 23;
    floats scale;
    memcpy(&scale, &exponent, sizeof scale);
    return power * scale; /* the exponent of -127 is that of 0 */
#endif
}

/* e^x to about 2 units in the last place; below -87 it is 0. */
INLINE floats exponential(floats x) {
    floats low = spread(-87.0f), high = spread(88.0f);
    floats clipped = choose(x < low, low, x);
    clipped = choose(clipped > high, high, clipped);
    floats scaled = clipped * 1.44269504f;
    floats rounded = (scaled + 12582912.0f) - 12582912.0f;
    floats rest = fused(rounded, spread(-0.693359375f), clipped);
    rest = fused(rounded, spread(2.12194440e-4f), rest);
    floats power = spread(1.9875691500e-4f);
    power = fused(power, rest, spread(1.3981999507e-3f));
    power = fused(power, rest, spread(8.3334519073e-3f));
    power = fused(power, rest, spread(4.1665795894e-2f));
    power = fused(power, rest, spread(1.6666665459e-1f));
    power = fused(power, rest, spread(5.0000001201e-1f));
    power = fused(power, rest * rest, rest) + 1.0f;
    ints exponent = (__builtin_convertvector(rounded, ints) + 127) << 23;
    floats scale;
    memcpy(&scale, &exponent, sizeof scale);
    floats result = power * scale;
    return choose(x < low, (floats){0}, result);
}

INLINE floats magnitude(floats v) { return (floats)((ints)v & 0x7fffffff); }

/* The largest magnitude of `count` numbers. */
INLINE float largest_of(const float *values, int count) {
    floats peak = {0};
    int c = 0;
    for (; c + LANES <= count; c += LANES) peak = larger(magnitude(load(values + c)), peak);
    float largest = most(peak);
    for (; c < count; c++) largest = fabsf(values[c]) > largest ? fabsf(values[c]) : largest;
    return largest;
}

/* The low bytes of whole numbers. */
INLINE void store_bytes(int8_t *target, ints whole) {
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i *)target, _mm512_cvtepi32_epi8((__m512i)whole));
#else
    bytes narrow = __builtin_convertvector(whole, bytes);
    memcpy(target, &narrow, sizeof narrow);
#endif
}

/* Rounds numbers times `factor` to bytes, to nearest and even, and returns their sum. */
INLINE int32_t round_to_codes(const float *values, int8_t *codes, int count, float factor) {
    ints total = {0};
    int32_t sum;
    int c = 0;
    for (; c + LANES <= count; c += LANES) {
        floats rounded = (load(values + c) * factor + 12582912.0f) - 12582912.0f;
        ints whole = __builtin_convertvector(rounded, ints);
        total += whole;
        store_bytes(codes + c, whole);
    }
    sum = total_of(total);
    for (; c < count; c++) {
        codes[c] = (int8_t)lrintf(values[c] * factor);
        sum += codes[c];
    }
    return sum;
}
