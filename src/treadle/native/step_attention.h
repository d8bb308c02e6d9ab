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

/* Where the weights that a KV head's query heads give stay beside its entries, for who chooses which of these stay. */
typedef struct {
    float *scores; /* of the arena; null: nobody asks */
    int first_row; /* rows of the segment before it do not count */
    int counts_largest; /* the largest weight stays, instead of their sum */
} Counted;

/* Rows of a tile that see the same slots of a block, because they share the pages. */
typedef struct {
    int32_t first_row, num_rows; /* of the tile */
    int32_t layout;              /* the row at which their queries lie as `ranges` say */
    int32_t first_slot, num_slots; /* of the block, in whole groups */
} Piece;

/* Rows of a tile that share with no others what lies from a slot on: those of one segment. */
typedef struct {
    int32_t first_row, num_rows, layout, begin;
} Tail;

/* What a room must have place for, where it is more than a tile of one segment takes. */
typedef struct {
    int rows, layouts, pieces; /* of a tile; rows laid out; of a block */
} Most;

/* Rows that meet the cache together in the heads of one KV head. They are neighbours in one segment, or `members`. */
typedef struct {
    const View *view;
    const Heads *heads;
    const Cache *cache;
    int segment, first, num_rows, kv_head;
    const int32_t *members, *segments; /* rows of several segments, and the segment of every row of the step; or null */
    const int32_t *ranges;             /* [num_ranges, 2] first and number of rows whose queries are laid out together; or null */
    int num_ranges;
    const int32_t *block_starts; /* [num_blocks + 1] into `pieces`, by blocks from slot 0 on */
    const Piece *pieces;
    const Tail *tails;           /* null: all rows share all slots */
    int num_blocks, num_tails;
    int begin, end;       /* slots that they meet; end 0: as far as they see */
    const float *queries; /* [rows, heads, dim] */
    float *target;        /* the same */
    float *partial;       /* of the first row: [rows, heads, dim + 2] what they met so far, instead of a target; or null */
    float *room;          /* attention_room floats */
    const Most *most;     /* as it was asked for */
    Mass mass;
    Counted counted;
} Tile;

#pragma GCC visibility push(hidden)

void attend(const Tile *tile);

/* So many rows that keys are read seldom, so few that their scores of a block stay in the cache. */
int tile_rows(const Heads *h);

int64_t attention_room(const Heads *h, const Most *most);

/* Puts the partial results of a row together, in their order: numbers of partials, and the first partial row of a tile. */
void reduce(const Heads *h, const float *partials, const int32_t *numbers, int count, float *target);

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
Score score_fp32, score_fp16, score_int8, score_int4;

/* out[i * dim] = that times factors[i] + the sum of the block's values by weights[i * SLOTS], which are scaled if they are. */
typedef void Gather(float *weights, const float *factors, const Queries *q, const Places *now, const Places *next,
                    float *out);
Gather gather_fp32, gather_fp16, gather_int8, gather_int4;

#pragma GCC visibility pop
