/* Attention over pages: the rows of a request meet its cached keys and values, page by page. A row adds up its slots in
 * their order and looks at no other row, so that its result does not depend on the batch or on how a prompt was cut. */

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

/* So many rows that keys are read seldom, so few that their scores stay in the cache. */
int tile_rows(const Heads *h);

int64_t attention_room(const Heads *h, int64_t context);

/* Stores a vector of `dim` numbers from `at` on, `step` apart; its scale, if it has one, at `slot`. */
void keep(void *array, float *scales, int64_t at, int64_t step, int64_t slot, const float *x, int dim, int dtype);

/* scores[i * row + slot] = q[i] . k[slot] for the first `most` slots; a block's last group may write beyond them. Each type
 * of cache is a unit of its own, because it takes long to compile. */
typedef void Score(const Plane *p, const float *q, int count, int most, float *scores, int64_t row);
Score score_fp32, score_fp16, score_int8;

/* The same for any type, where pages do not consist of whole groups: keys are gathered in `room`. */
void score_gathered(const Plane *p, const float *q, int count, int most, float *room, float *scores, int64_t row);

/* out[i * dim] = the sum of the slots' values by the weights of query i. */
typedef void Gather(const Plane *p, const float *weights, int64_t row, int count, int most, float *out);
Gather gather_fp32, gather_fp16, gather_int8;

#pragma GCC visibility pop
