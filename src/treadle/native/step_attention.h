/* Attention over pages: the rows of a request meet its cached keys and values, block by block of slots. A row adds up its
 * slots in their order, by blocks that begin at the same slots always, and looks at no other row, so that its result does
 * not depend on the batch or on how a prompt was cut. */

#pragma once

#include "step_cache.h"

/* Where the weights of attention are added up, for who looks at them. */
typedef struct {
    float *to;          /* the first of this KV head's query heads; null: nobody looks */
    int64_t head_stride, row_stride; /* row_stride 0: a head's rows add up */
    int first_row;      /* rows of the segment before it do not count */
} Mass;

/* Rows that meet the same keys: up to tile_rows rows of one segment, from `first` on, in the heads of one KV head. */
typedef struct {
    const View *view;
    const Heads *heads;
    const Cache *cache;
    int segment, first, num_rows, kv_head;
    const float *queries; /* [rows, heads, dim] */
    float *target;        /* the same */
    float *room;          /* attention_room floats */
    Mass mass;
} Tile;

#pragma GCC visibility push(hidden)

void attend(const Tile *tile);

/* So many rows that keys are read seldom, so few that their scores of a block stay in the cache. */
int tile_rows(const Heads *h);

int64_t attention_room(const Heads *h);

/* Stores a vector of `dim` numbers from `at` on, `step` apart; its scale, if it has one, at `slot`. What float16 does not
 * hold becomes NaN, as all that is computed from it: infinite scores may come out of a cap as numbers like others. */
void keep(void *array, float *scales, int64_t at, int64_t step, int64_t slot, const float *x, int dim, int dtype);

/* Where a block of slots lies: a group is LANES slots side by side. */
typedef struct {
    const void *keys[GROUPS];   /* a group's next dimension follows `stride` numbers later */
    const void *values[GROUPS]; /* [LANES, dim] */
    const float *key_scales[GROUPS], *value_scales[GROUPS];
    int64_t stride;
    int num_slots, num_groups, has_scales;
} Places;

/* The query vectors of a tile, one dimension of up to TALL of them after the other: those of the first TALL first. */
typedef struct {
    const float *vectors;
    int count, dim;
} Queries;

/* scores[i * SLOTS + j] = q[i] . k[j] for the slots of a block; its last group may have numbers beyond them. What lies at
 * `next` (null: nothing) is fetched beside. Each type of cache is a unit of its own, because it takes long to compile. */
typedef void Score(const Queries *q, const Places *now, const Places *next, float *scores);
Score score_fp32, score_fp16, score_int8;

/* out[i * dim] = that times factors[i] + the sum of the block's values by weights[i * SLOTS], which are scaled if they are. */
typedef void Gather(float *weights, const float *factors, const Queries *q, const Places *now, const Places *next,
                    float *out);
Gather gather_fp32, gather_fp16, gather_int8;

#pragma GCC visibility pop
