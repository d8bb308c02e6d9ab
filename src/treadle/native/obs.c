/* Optimal brain surgeon inside one block of columns: prune a column, spread its error over the columns to its right.
 *
 * LANES rows travel together, one to a vector lane, and the columns are visited in small groups. A group first takes the
 * errors of all columns before it (a small matrix product held in registers), then eliminates its own columns one by one.
 * Each weight sees the same subtractions in the same order as in the column-by-column formula, and no multiplication is
 * fused with its subtraction (-ffp-contract=off), so the Python twin computes the same bits. */

#include "mirror.h"

enum { LANES = 8, GROUP = 8, MAX_WIDTH = 256 };

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES))); /* a mask: -1 where true */

#define BLOCK_FIELDS(F)                                                                                                    \
    F(float *, weight)                                                                                                     \
    F(const float *, upper) /* row-major, width x width */                                                                 \
    F(uint8_t *, keep)                                                                                                     \
    F(float *, error)                                                                                                      \
    F(int64_t, weight_stride) /* elements from one row to the next */                                                      \
    F(int64_t, keep_stride)                                                                                                \
    F(int64_t, error_stride)                                                                                               \
    F(int32_t, width)
MIRRORED(Block, BLOCK_FIELDS);

/* The columns so far that pruned anything in these LANES rows; the others have no error to spread. */
typedef struct {
    floats error[MAX_WIDTH];
    int column[MAX_WIDTH];
    int count;
} Pruned;

static inline floats zero_where(ints mask, floats value) { return (floats)((ints)value & ~mask); }

static inline int any(ints mask) {
    int32_t result = 0;
    for (int lane = 0; lane < LANES; lane++) result |= mask[lane];
    return result != 0;
}

/* Prunes the m - n members of smallest weight^2 / diagonal^2; on ties the lower column goes first. */
static inline __attribute__((always_inline)) void choose(
    const floats *weight, const float *diagonal, int n, int m, ints *pruned) {
    floats saliency[MAX_WIDTH];
    ints rank[MAX_WIDTH];
    for (int i = 0; i < m; i++) {
        float u = diagonal[i];
        saliency[i] = weight[i] * weight[i] / (u * u);
        rank[i] = (ints){0};
    }
    for (int i = 1; i < m; i++)
        for (int j = 0; j < i; j++) {
            ints j_first = saliency[j] <= saliency[i];
            rank[i] -= j_first;
            rank[j] += 1 + j_first;
        }
    for (int i = 0; i < m; i++) pruned[i] = rank[i] < m - n;
}

static inline __attribute__((always_inline)) void load(
    const Block *block, int64_t row, int lanes, int first, int group, floats *weight, ints *pruned) {
    for (int c = 0; c < group; c++) {
        weight[c] = (floats){0};
        pruned[c] = (ints){0};
    }
    for (int lane = 0; lane < lanes; lane++) {
        const float *from = block->weight + (row + lane) * block->weight_stride + first;
        const uint8_t *keep = block->keep + (row + lane) * block->keep_stride + first;
        for (int c = 0; c < group; c++) {
            weight[c][lane] = from[c];
            pruned[c][lane] = keep[c] - 1;
        }
    }
}

static inline __attribute__((always_inline)) void store(
    const Block *block, int64_t row, int lanes, int first, int group, const floats *weight, const floats *error,
    const ints *pruned) {
    for (int lane = 0; lane < lanes; lane++) {
        float *to = block->weight + (row + lane) * block->weight_stride + first;
        float *lost = block->error + (row + lane) * block->error_stride + first;
        uint8_t *keep = block->keep + (row + lane) * block->keep_stride + first;
        for (int c = 0; c < group; c++) {
            to[c] = weight[c][lane];
            lost[c] = error[c][lane];
            keep[c] = (uint8_t)(1 + pruned[c][lane]);
        }
    }
}

/* Eliminates the columns [first, first + group) of LANES rows; n_kept < 0 means that the mask is given. */
static inline __attribute__((always_inline)) void eliminate(
    const Block *block, int64_t row, int lanes, int first, int group, int n_kept, Pruned *before) {
    floats weight[MAX_WIDTH], error[MAX_WIDTH];
    ints pruned[MAX_WIDTH];
    float diagonal[MAX_WIDTH];
    load(block, row, lanes, first, group, weight, pruned);
    for (int p = 0; p < before->count; p++) {
        const float *upper = block->upper + (int64_t)before->column[p] * block->width + first;
        for (int c = 0; c < group; c++) weight[c] -= before->error[p] * upper[c];
    }
    for (int c = 0; c < group; c++) diagonal[c] = block->upper[(int64_t)(first + c) * (block->width + 1)];
    if (n_kept >= 0) choose(weight, diagonal, n_kept, group, pruned);
    for (int c = 0; c < group; c++) {
        const float *upper = block->upper + (int64_t)(first + c) * block->width + first;
        error[c] = zero_where(~pruned[c], weight[c] / diagonal[c]);
        weight[c] = zero_where(pruned[c], weight[c]);
        for (int d = c + 1; d < group; d++) weight[d] -= error[c] * upper[d];
        if (any(pruned[c])) {
            before->error[before->count] = error[c];
            before->column[before->count++] = first + c;
        }
    }
    store(block, row, lanes, first, group, weight, error, pruned);
}

static inline __attribute__((always_inline)) void sweep(
    const Block *block, int64_t begin, int64_t end, int group, int n_kept) {
    for (int64_t row = begin; row < end; row += LANES) {
        int lanes = end - row < LANES ? (int)(end - row) : LANES;
        Pruned before;
        before.count = 0;
        int first = 0;
        if (lanes == LANES)
            for (; first + group <= block->width; first += group)
                eliminate(block, row, LANES, first, group, n_kept, &before);
        for (; first < block->width; first += group) {
            int rest = block->width - first < group ? block->width - first : group;
            eliminate(block, row, lanes, first, rest, n_kept, &before);
        }
    }
}

void obs_block(const Block *block, int64_t begin, int64_t end) { sweep(block, begin, end, GROUP, -1); }

void obs_block_n_of_m(const Block *block, int64_t begin, int64_t end, int32_t n, int32_t m) {
    if (m == 4) sweep(block, begin, end, 4, n);
    else if (m == 8) sweep(block, begin, end, 8, n);
    else sweep(block, begin, end, m, n);
}

MIRRORS(MIRROR_STRUCT(Block, BLOCK_FIELDS))
