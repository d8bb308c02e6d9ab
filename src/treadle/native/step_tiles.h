/* Who meets the cache together in a step: rows of one segment by themselves, or rows of several segments that share pages
 * (a tree, whose branches are segments), as a plan says. */

#pragma once

#include "step_attention.h"

/* A tile of the plan. */
#define PLANNED_FIELDS(F)                                                                                                  \
    F(int32_t, first)       /* of its rows among `members` */                                                              \
    F(int32_t, num_rows)                                                                                                   \
    F(int32_t, first_range) /* of its `ranges` */                                                                          \
    F(int32_t, num_ranges)  /* 0: all rows are laid out together */                                                        \
    F(int32_t, first_block) /* of its `block_starts` */                                                                    \
    F(int32_t, num_blocks)                                                                                                 \
    F(int32_t, first_tail)  /* of its `tails` */                                                                           \
    F(int32_t, num_tails)   /* 0: all rows share all slots */                                                              \
    F(int32_t, begin)                                                                                                      \
    F(int32_t, end)         /* slots that it meets; end 0: as far as its rows see */                                       \
    F(int32_t, partial)     /* number of its first row's partial result; -1: it has whole ones */
MIRRORED(Planned, PLANNED_FIELDS);

/* A tree whose rows meet all of its slots, with a mask: nothing is fused. */
#define DENSE_FIELDS(F)                                                                                                    \
    F(int32_t, first) /* of its rows among `members` */                                                                    \
    F(int32_t, num_rows)                                                                                                   \
    F(int32_t, first_page) /* of its pages among `dense_pages` */                                                          \
    F(int32_t, num_slots)                                                                                                  \
    F(int32_t, first_mask) /* of its part [rows, slots] of `mask` */
MIRRORED(Dense, DENSE_FIELDS);

#define SHARING_FIELDS(F)                                                                                                  \
    F(const int32_t *, members)         /* rows, tile after tile */                                                        \
    F(const int32_t *, segments)        /* [rows] the segment of each */                                                   \
    F(const int32_t *, ranges)          /* [ranges, 2] first and number of a tile's rows that are laid out together */     \
    F(const int32_t *, block_starts)    /* into pieces */                                                                  \
    F(const Piece *, pieces)                                                                                               \
    F(const Tail *, tails)                                                                                                 \
    F(const Planned *, tiles)                                                                                              \
    F(const int32_t *, partial_starts)  /* [rows + 1] into `partials`; null: there are none */                             \
    F(const int32_t *, partials)        /* numbers of each row's partial results */                                        \
    F(const Dense *, dense)                                                                                                \
    F(const int32_t *, dense_pages)                                                                                        \
    F(const float *, mask)              /* 0 or minus infinity */                                                          \
    F(int32_t, num_tiles)                                                                                                  \
    F(int32_t, num_dense)                                                                                                  \
    F(int32_t, num_partials)                                                                                               \
    F(int32_t, dense_numbers)           /* most rows * slots of a dense tree */                                            \
    F(int32_t, most_rows)                                                                                                  \
    F(int32_t, most_layouts)            /* rows in the ranges of a tile */                                                 \
    F(int32_t, most_pieces)             /* of a block */
MIRRORED(Sharing, SHARING_FIELDS);

#pragma GCC visibility push(hidden)

/* Floats of the room of one member for layers with such heads. */
int64_t tiles_room(const Heads *h, const Sharing *sharing);

/* Attention of a dense tree in one KV head: scores, scaled scores, masked scores and their softmax are written and read
 * again as a whole, one after the other. */
void attend_dense(const Tile *tile, const Sharing *sharing, const Dense *tree);

#pragma GCC visibility pop
