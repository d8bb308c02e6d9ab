/* What merging does to every element: between bfloat16 and float32, counting magnitudes, drawing random numbers. Each
 * function works on one run of elements; callers cut tensors into runs that fit the cache. */

#include <stdint.h>
#include <string.h>

enum { EXPONENT = 0x7f80, INFINITE = 0x7f800000 };

/* Returns 1 if every number is finite. */
int32_t decode_bf16(const uint16_t *restrict source, int64_t count, uint32_t *restrict target) {
    uint32_t broken = 0;
    for (int64_t i = 0; i < count; i++) {
        target[i] = (uint32_t)source[i] << 16;
        broken |= (source[i] & EXPONENT) == EXPONENT;
    }
    return !broken;
}

/* Rounds to nearest, ties to even. The numbers are finite. */
void encode_bf16(const uint32_t *restrict source, int64_t count, uint16_t *restrict target) {
    for (int64_t i = 0; i < count; i++) target[i] = (uint16_t)((source[i] + 0x7fff + ((source[i] >> 16) & 1)) >> 16);
}

int32_t are_finite(const uint32_t *source, int64_t count) {
    uint32_t broken = 0;
    for (int64_t i = 0; i < count; i++) broken |= (source[i] & INFINITE) == INFINITE;
    return !broken;
}

/* Counts numbers by the upper 16 bits of their magnitude: bins[32768]. */
void count_high_bits(const uint32_t *source, int64_t count, int64_t *bins) {
    for (int64_t i = 0; i < count; i++) bins[(source[i] & INT32_MAX) >> 16]++;
}

/* Counts, by their lower 16 bits, the numbers whose magnitude has the upper bits `high`: bins[65536]. */
void count_low_bits(const uint32_t *source, int64_t count, uint32_t high, int64_t *bins) {
    for (int64_t i = 0; i < count; i++)
        if ((source[i] & INT32_MAX) >> 16 == high) bins[source[i] & 0xffff]++;
}

/* Element `first + i` of the stream `key`: SplitMix64's output for that counter, as a float32 in [0, 1). */
void uniform(uint64_t key, uint64_t first, int64_t count, float *target) {
    for (int64_t i = 0; i < count; i++) {
        uint64_t bits = key + (first + (uint64_t)i + 1) * 0x9e3779b97f4a7c15u;
        bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
        bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
        target[i] = (float)(uint32_t)((bits ^ (bits >> 31)) >> 40) * 0x1p-24f;
    }
}

/* The scalar product: products, exact in float64, are added in 16 lanes of it. */
double dot(const float *restrict left, const float *restrict right, int64_t count) {
    enum { SUMS = 16 };
    double sums[SUMS] = {0}, total = 0;
    int64_t i = 0;
    for (; i + SUMS <= count; i += SUMS)
        for (int lane = 0; lane < SUMS; lane++) sums[lane] += (double)left[i + lane] * (double)right[i + lane];
    for (int lane = 0; i + lane < count; lane++) sums[lane] += (double)left[i + lane] * (double)right[i + lane];
    for (int lane = 0; lane < SUMS; lane++) total += sums[lane];
    return total;
}
