/* What merging does to every element: between bfloat16 and float32, counting magnitudes, drawing random numbers. Each
 * function works on one run of elements; callers cut tensors into runs that fit the cache. */

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

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

/* Reads `count` bfloat16 numbers from a file as float32, a piece at a time that stays in the cache. Returns 1 if
 * every number is finite, 0 if one is not, -1 if the file ends before, -2 on an error of the system. */
int32_t read_bf16(int32_t file, int64_t offset, int64_t count, uint32_t *target) {
    enum { PIECE = 32768 };
    uint16_t piece[PIECE];
    int32_t is_sound = 1;
    while (count > 0) {
        int64_t size = count < PIECE ? count : PIECE, filled = 0, num_bytes = size * 2;
        while (filled < num_bytes) {
            ssize_t found = pread(file, (char *)piece + filled, (size_t)(num_bytes - filled), offset + filled);
            if (found < 0 && errno == EINTR) continue;
            if (found <= 0) return found ? -2 : -1;
            filled += found;
        }
        is_sound &= decode_bf16(piece, size, target);
        offset += num_bytes, target += size, count -= size;
    }
    return is_sound;
}

/* The sum of weights[n] * vectors[n], added up in that order; the target may be one of the vectors. */
void weighted_sum(const float *const *vectors, const float *weights, int32_t num_vectors, int64_t count, float *target) {
    enum { PIECE = 1024 };
    float sums[PIECE];
    for (int64_t first = 0; first < count; first += PIECE) {
        int64_t size = count - first < PIECE ? count - first : PIECE;
        for (int64_t i = 0; i < size; i++) sums[i] = weights[0] * vectors[0][first + i];
        for (int32_t n = 1; n < num_vectors; n++)
            for (int64_t i = 0; i < size; i++) sums[i] += weights[n] * vectors[n][first + i];
        memcpy(target + first, sums, (size_t)size * sizeof(float));
    }
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

/* out = base + factor * the sum of weights[n] * (vectors[n] - base), added up in that order; the target may be one of the
 * vectors. */
void weighted_change(const float *const *vectors, const float *base, const float *weights, int32_t num_vectors,
                     int64_t count, float factor, float *target) {
    enum { PIECE = 1024 };
    float sums[PIECE];
    for (int64_t first = 0; first < count; first += PIECE) {
        int64_t size = count - first < PIECE ? count - first : PIECE;
        const float *from = base + first;
        for (int64_t i = 0; i < size; i++) sums[i] = weights[0] * (vectors[0][first + i] - from[i]);
        for (int32_t n = 1; n < num_vectors; n++)
            for (int64_t i = 0; i < size; i++) sums[i] += weights[n] * (vectors[n][first + i] - from[i]);
        for (int64_t i = 0; i < size; i++) target[first + i] = sums[i] * factor + from[i];
    }
}

enum { GRAM_LANES = 16, HALF = GRAM_LANES / 2, FEW = 4 };
typedef float floats __attribute__((vector_size(4 * HALF)));
typedef double doubles __attribute__((vector_size(8 * HALF)));

static inline __attribute__((always_inline)) doubles widened(const float *vector, const float *base) {
    floats value, from;
    memcpy(&value, vector, sizeof value);
    if (base) {
        memcpy(&from, base, sizeof from);
        value -= from;
    }
    return __builtin_convertvector(value, doubles);
}

/* Adds the products of a few vectors, whose number the compiler knows, so that all sums stay in registers. */
static inline __attribute__((always_inline)) void gram_of_few(
    const float *const *vectors, const float *base, int num_vectors, int64_t count, double *room) {
    doubles sums[FEW * (FEW + 1) / 2][2], wide[FEW][2];
    int num_pairs = num_vectors * (num_vectors + 1) / 2;
    memcpy(sums, room, (size_t)num_pairs * sizeof sums[0]);
    for (int64_t i = 0; i + GRAM_LANES <= count; i += GRAM_LANES) {
#pragma GCC unroll 4
        for (int n = 0; n < num_vectors; n++)
            for (int half = 0; half < 2; half++)
                wide[n][half] = widened(vectors[n] + i + half * HALF, base ? base + i + half * HALF : base);
        int pair = 0;
#pragma GCC unroll 4
        for (int n = 0; n < num_vectors; n++)
#pragma GCC unroll 4
            for (int m = 0; m <= n; m++, pair++)
                for (int half = 0; half < 2; half++) sums[pair][half] += wide[n][half] * wide[m][half];
    }
    memcpy(room, sums, (size_t)num_pairs * sizeof sums[0]);
}

/* The same for any number of vectors, pair by pair. */
static void gram_of_many(
    const float *const *vectors, const float *base, int32_t num_vectors, int64_t first, int64_t stop, double *room) {
    for (int32_t n = 0; n < num_vectors; n++)
        for (int32_t m = 0; m <= n; m++, room += GRAM_LANES) {
            doubles sums[2];
            memcpy(sums, room, sizeof sums);
            for (int64_t i = first; i < stop; i += GRAM_LANES)
                for (int half = 0; half < 2; half++) {
                    int64_t at = i + half * HALF;
                    const float *from = base ? base + at : base;
                    sums[half] += widened(vectors[n] + at, from) * widened(vectors[m] + at, from);
                }
            memcpy(room, sums, sizeof sums);
        }
}

/* The same for the numbers behind the last whole run of lanes. */
static void gram_of_rest(
    const float *const *vectors, const float *base, int32_t num_vectors, int64_t first, int64_t stop, double *room) {
    for (int32_t n = 0; n < num_vectors; n++)
        for (int32_t m = 0; m <= n; m++, room += GRAM_LANES)
            for (int64_t i = first; i < stop; i++) {
                float from = base ? base[i] : 0, left = vectors[n][i] - from, right = vectors[m][i] - from;
                room[i - first] += (double)left * (double)right;
            }
}

/* Adds the scalar products of all pairs of vectors, or of what they differ from `base` unless that is null, to
 * products[num_vectors][num_vectors], its lower half: each is exact in float64, added up in 16 lanes of it, and these in
 * order. `room` holds 16 doubles for each pair. */
void gram(const float *const *vectors, const float *base, int32_t num_vectors, int64_t count, double *room,
          double *products) {
    enum { PIECE = 256 };
    int64_t num_pairs = (int64_t)num_vectors * (num_vectors + 1) / 2, whole = count / GRAM_LANES * GRAM_LANES;
    memset(room, 0, (size_t)num_pairs * GRAM_LANES * sizeof(double));
    switch (num_vectors) {
    case 1: gram_of_few(vectors, base, 1, whole, room); break;
    case 2: gram_of_few(vectors, base, 2, whole, room); break;
    case 3: gram_of_few(vectors, base, 3, whole, room); break;
    case FEW: gram_of_few(vectors, base, FEW, whole, room); break;
    default:
        for (int64_t first = 0; first < whole; first += PIECE)
            gram_of_many(vectors, base, num_vectors, first, whole - first < PIECE ? whole : first + PIECE, room);
    }
    gram_of_rest(vectors, base, num_vectors, whole, count, room);
    for (int32_t n = 0; n < num_vectors; n++)
        for (int32_t m = 0; m <= n; m++, room += GRAM_LANES) {
            double total = 0;
            for (int lane = 0; lane < GRAM_LANES; lane++) total += room[lane];
            products[(int64_t)n * num_vectors + m] += total;
        }
}
