/* Mixtures of experts: which experts a token gets, and how their matrices meet the tokens of a step. */

#pragma once

#include "step_matrix.h"

/* Rows that are routed together: an expert's matrices are read once for all of them. */
enum { MOST_ROUTED = 512 };

#define EXPERT_MLP_FIELDS(F)                                                                                               \
    F(Matrix, gate)                                                                                                        \
    F(Matrix, up)                                                                                                          \
    F(Matrix, down)
MIRRORED(ExpertMlp, EXPERT_MLP_FIELDS);

/* The experts of a layer; an expert that all tokens get is the layer's own MLP. */
#define EXPERT_LAYER_FIELDS(F)                                                                                             \
    F(Matrix, router)             /* [experts, hidden] */                                                                  \
    F(const ExpertMlp *, experts)                                                                                          \
    F(const float *, shared_gate) /* [hidden] how much of the shared one a token gets, by its sigmoid; or null */          \
    F(int32_t, num_experts)                                                                                                \
    F(int32_t, top_k)                                                                                                      \
    F(int32_t, is_normed)         /* whether the shares of a token's experts add up to one */                              \
    F(int32_t, is_rounded)        /* whether some first matrix is of codes */
MIRRORED(ExpertLayer, EXPERT_LAYER_FIELDS);

/* Room for rows that are routed together. An entry is a row that meets one of its experts; those of an expert stand side by
 * side, in the order of their rows. */
typedef struct {
    float *probabilities; /* [rows, experts] */
    int32_t *chosen;      /* [rows, top_k] ascending experts */
    float *shares;        /* [rows, top_k] */
    int32_t *entries;     /* [rows, top_k] */
    int32_t *starts;      /* [experts + 1] the first entry of each */
    int32_t *rows;        /* [entries] */
    float *shared_shares; /* [rows] */
    Activations inputs;   /* [entries, hidden], of experts with several */
    float *gate;          /* [entries, inner] */
    Activations inner;    /* [entries, inner] */
    float *out;           /* [entries, hidden] */
    float *shared;        /* [all rows, hidden] */
} Routed;
