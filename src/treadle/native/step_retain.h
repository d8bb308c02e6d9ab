/* Trained heads that score what enters the cache. See model/retaining.py for what they compute. */

#pragma once

#include "step_matrix.h"

enum { SCORE_LINEAR, SCORE_MLP, SCORE_GATE };
enum { READ_PROJECTIONS, READ_HIDDEN };
enum { WITH_SILU, WITH_GELU, WITH_RELU };
enum { GATE_WIDTH = 16 };

/* The heads of a layer. */
#define RETAINING_FIELDS(F)                                                                                                \
    F(Matrix, first)                                                                                                       \
    F(const float *, second)      /* [kv_heads, first.rows] of an mlp */                                                   \
    F(const float *, second_bias) /* [kv_heads], or null */                                                                \
    F(const float *, norms)       /* [2, GATE_WIDTH] of a gate */                                                          \
    F(const float *, sinks)       /* [kv_heads, num_sinks, GATE_WIDTH] */                                                  \
    F(const float *, bias)        /* [heads] */                                                                            \
    F(int32_t, kind)                                                                                                       \
    F(int32_t, reads)                                                                                                      \
    F(int32_t, activation)                                                                                                 \
    F(int32_t, num_sinks)
MIRRORED(Retaining, RETAINING_FIELDS);

#pragma GCC visibility push(hidden)

/* Turns what `first` gave for a token into the scores of its KV heads; `inner` is written over. */
void conclude_scores(const Retaining *own, float *inner, int heads, int kv_heads, float *scores);

#pragma GCC visibility pop
