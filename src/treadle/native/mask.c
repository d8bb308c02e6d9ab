/* Masks with exact counts. Every function works on the rows (or groups) [begin, end), so that threads can share one
 * matrix. On ties the lower index is pruned first, and -0.0 equals +0.0. NaN is the caller's to refuse. */

#include <stdint.h>
#include <string.h>

enum { CHUNK = 1 << 20, LANES = 8, MAX_GROUP = 32 };

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

/* Maps a float to an integer of the same order, and back (the map is its own inverse on the bits). */
static inline int32_t key_of(float value) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits ^ ((bits >> 31) & INT32_MAX);
}

static inline float value_of(int32_t key) {
    int32_t bits = key ^ ((key >> 31) & INT32_MAX);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Counts in chunks because 32-bit counters fill a vector twice as densely as 64-bit ones. */
static int64_t count_at_most(const float *row, int64_t cols, float bound) {
    int64_t total = 0;
    for (int64_t begin = 0; begin < cols; begin += CHUNK) {
        int64_t end = begin + CHUNK < cols ? begin + CHUNK : cols;
        int32_t count = 0;
        for (int64_t c = begin; c < end; c++) count += row[c] <= bound;
        total += count;
    }
    return total;
}

/* The num_prune-th smallest value, or any value that separates it from the next one. Bisection beats introselect here:
 * each probe is one branchless, vectorised count, and most rows separate long before the 32 bits are exhausted. */
static float threshold(const float *row, int64_t cols, int64_t num_prune) {
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (int64_t c = 0; c < cols; c++) {
        int32_t key = key_of(row[c]);
        low = key < low ? key : low;
        high = key > high ? key : high;
    }
    while (low < high) {
        int32_t middle = (int32_t)(((int64_t)low + high) >> 1);
        int64_t count = count_at_most(row, cols, value_of(middle));
        if (count == num_prune) return value_of(middle);
        if (count < num_prune) low = middle + 1;
        else high = middle;
    }
    return value_of(low);
}

static void keep_row(const float *row, int64_t cols, int64_t num_prune, uint8_t *keep) {
    if (num_prune == 0) {
        memset(keep, 1, (size_t)cols);
        return;
    }
    float bound = threshold(row, cols, num_prune);
    int64_t surplus = count_at_most(row, cols, bound) - num_prune;
    int64_t spared = cols; /* from this column on, values equal to the bound are kept */
    while (surplus > 0 && spared > 0) surplus -= row[--spared] == bound;
    for (int64_t c = 0; c < spared; c++) keep[c] = row[c] > bound;
    for (int64_t c = spared; c < cols; c++) keep[c] = row[c] >= bound;
}

void keep_rows(const float *score, int64_t begin, int64_t end, int64_t cols, int64_t num_prune, uint8_t *keep) {
    for (int64_t r = begin; r < end; r++) keep_row(score + r * cols, cols, num_prune, keep + r * cols);
}

/* Ranks the m members of LANES groups at once: a member's rank is the number of members that are pruned before it. */
static inline __attribute__((always_inline)) void keep_lanes(
    const float *score, int lanes, int n, int m, uint8_t *keep) {
    floats value[MAX_GROUP];
    ints rank[MAX_GROUP];
    for (int i = 0; i < m; i++) {
        value[i] = (floats){0};
        rank[i] = (ints){0};
        for (int lane = 0; lane < lanes; lane++) value[i][lane] = score[lane * m + i];
    }
    for (int i = 1; i < m; i++)
        for (int j = 0; j < i; j++) {
            ints j_first = value[j] <= value[i]; /* -1 where true */
            rank[i] -= j_first;
            rank[j] += 1 + j_first;
        }
    for (int lane = 0; lane < lanes; lane++)
        for (int i = 0; i < m; i++) keep[lane * m + i] = rank[i][lane] >= m - n;
}

static inline __attribute__((always_inline)) void keep_groups(
    const float *score, int64_t begin, int64_t end, int n, int m, uint8_t *keep) {
    int64_t g = begin;
    for (; g + LANES <= end; g += LANES) keep_lanes(score + g * m, LANES, n, m, keep + g * m);
    if (g < end) keep_lanes(score + g * m, (int)(end - g), n, m, keep + g * m);
}

void keep_n_of_m(const float *score, int64_t begin, int64_t end, int32_t n, int32_t m, uint8_t *keep) {
    if (n == 2 && m == 4) keep_groups(score, begin, end, 2, 4, keep);
    else if (n == 4 && m == 8) keep_groups(score, begin, end, 4, 8, keep);
    else keep_groups(score, begin, end, n, m, keep);
}
