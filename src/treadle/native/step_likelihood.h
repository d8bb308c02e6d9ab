/* How likely a model finds given tokens, without the logits of all others being kept.
 *
 * The head is multiplied tile by tile, and of a tile's logits two numbers stay for each row: the largest, and the sum of
 * e^(logit - largest). Tiles begin at the same tokens whatever the batch and the team, and are added up in their order. */

#pragma once

#include "step_model.h"

/* Tokens of a tile: a multiple of LANES whose logits stay in the cache for as many rows as a step has. */
enum { TILE = 256 };

#pragma GCC visibility push(hidden)

int num_tiles(const Model *m);

/* Takes in the tile that begins with token `first`: logits [wanted, TILE], of which `count` columns are filled. */
void fold_tile(const Rows *rows, const float *logits, int first, int count, Part *parts, int tiles);

/* Turns the logits of a wanted row's targets, which `fold_tile` left in `out`, into their log-probabilities. */
void conclude(const Rows *rows, int wanted, const Part *parts, int tiles);

#pragma GCC visibility pop
