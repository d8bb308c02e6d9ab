/* A model, the rows of a step and what is computed on the way, as all parts of the walk see them. */

#pragma once

#include "step_lora.h"
#include "step_matrix.h"
#include "step_mixture.h"
#include "step_retain.h"
#include "step_sparse.h"
#include "step_team.h"
#include "step_tiles.h"

enum { SILU, GELU_TANH, GELU, RELU, QUICK_GELU };

/* Vectors of a layer that rows may have of their own: norms, in the order of the layer's, and changes of biases. */
enum { ATTENTION_NORM, MLP_NORM, ATTENTION_AFTER, MLP_AFTER, Q_NORM, K_NORM, ATTENTION_SHIFT, MLP_SHIFT, Q_WHOLE, K_WHOLE, NUM_NORMS };
enum { NUM_VECTORS = NUM_NORMS + NUM_TARGETS };

#define LAYER_FIELDS(F)                                                                                                    \
    F(Matrix, q)                                                                                                           \
    F(Matrix, k)                                                                                                           \
    F(Matrix, v)                                                                                                           \
    F(Matrix, o)                                                                                                           \
    F(Matrix, gate) /* no rows: the MLP has none */                                                                        \
    F(Matrix, up)                                                                                                          \
    F(Matrix, down)                                                                                                        \
    F(const float *, attention_norm)  /* before the branch */                                                              \
    F(const float *, mlp_norm)                                                                                             \
    F(const float *, attention_after) /* after it, or null */                                                              \
    F(const float *, mlp_after)                                                                                            \
    F(const float *, q_norm)          /* [dim], or null */                                                                 \
    F(const float *, k_norm)                                                                                               \
    F(const float *, attention_shift) /* biases of the norms before the branches, or null */                               \
    F(const float *, mlp_shift)                                                                                            \
    F(const float *, q_whole)         /* [heads * dim] a norm of all heads together, or null */                            \
    F(const float *, k_whole)                                                                                              \
    F(const ExpertLayer *, experts)   /* or null: the MLP is all */                                                        \
    F(Heads, heads)                                                                                                        \
    F(int32_t, rope)   /* which of the tables of angles */                                                                 \
    F(int32_t, turned) /* how many numbers of a head turn, the first ones */
MIRRORED(Layer, LAYER_FIELDS);

#define MODEL_FIELDS(F)                                                                                                    \
    F(Matrix, embedding)                                                                                                   \
    F(Matrix, head)                                                                                                        \
    F(const float *, norm)                                                                                                 \
    F(const float *, shift)     /* bias of the final norm, or null */                                                      \
    F(const float *, positions) /* [positions, hidden] what is added to the embedding, or null */                          \
    F(const Layer *, layers)                                                                                               \
    F(const Cache *, caches)                                                                                               \
    F(int32_t, num_layers)                                                                                                 \
    F(int32_t, hidden)                                                                                                     \
    F(int32_t, activation)                                                                                                 \
    F(float, epsilon)                                                                                                      \
    F(float, norm_offset)                                                                                                  \
    F(float, embedding_scale)                                                                                              \
    F(float, softcap)                                                                                                      \
    F(float, clip)          /* largest number of queries, keys and values before they turn; 0: any */                      \
    F(int32_t, is_centred)  /* norms before branches and at the end take the mean away */                                  \
    F(int32_t, is_parallel) /* both branches of a block read what it gets */                                               \
    F(int32_t, kv_dtype)                                                                                                   \
    F(int32_t, page_size)
MIRRORED(Model, MODEL_FIELDS);

/* What somebody looks at inside a step. */
#define PROBE_FIELDS(F)                                                                                                    \
    F(float *, states) /* [layers + 1, rows, hidden] the residual stream before each block and after all, or null */       \
    F(float *, inputs) /* of each layer what attention works with, see `record_inputs`; or null */                         \
    F(float *, mass)   /* [heads of all layers, slots], or [rows, heads, slots] if they stay apart; zeros; or null */      \
    F(int64_t, num_slots)                                                                                                  \
    F(int32_t, num_heads)                                                                                                  \
    F(int32_t, segment)   /* whose attention counts */                                                                     \
    F(int32_t, first_row) /* of the segment; from it on rows count */                                                      \
    F(int32_t, is_by_row)
MIRRORED(Probe, PROBE_FIELDS);

typedef const float *Angles[2]; /* [rows, turned / 2] of both kinds of layers */

#define ROWS_FIELDS(F)                                                                                                     \
    F(const int32_t *, tokens)                                                                                             \
    F(const int32_t *, slots)                                                                                              \
    F(const int32_t *, wanted)                                                                                             \
    F(View, view)                                                                                                          \
    F(Angles, cosines)                                                                                                     \
    F(Angles, sines)                                                                                                       \
    F(int32_t, num_rows)                                                                                                   \
    F(int32_t, num_segments)                                                                                               \
    F(int32_t, num_wanted)                                                                                                 \
    F(int32_t, wants_hidden)                                                                                               \
    F(const int32_t *, targets)           /* tokens whose log-probabilities are asked for; null: logits are */             \
    F(const int32_t *, target_starts)     /* [wanted + 1] where those of each wanted row begin */                          \
    F(float *, out)                       /* [wanted, vocab], or [wanted, hidden], or [targets] */                         \
    F(const Sharing *, sharing)           /* who meets the cache together; null: each segment by itself */                 \
    F(const Probe *, probe)               /* or null */                                                                    \
    F(const LowRank *const *, adapters)   /* of each adapter: [layers, NUM_TARGETS] */                                     \
    F(const Run *, runs)                  /* the rows that have one */                                                     \
    F(int32_t, num_runs)                                                                                                   \
    F(int32_t, max_rank)                                                                                                   \
    F(const float *const *, gates)        /* of each adapter: [layers] what the gate of a shared expert gets; or null */    \
    F(const Sparse *const *, experts)     /* of each expert: [layers * NUM_TARGETS], embedding, head */                    \
    F(Shares, shares)                     /* the rows that take parts of experts */                                        \
    F(Shares, wanted_shares)              /* the same of the wanted rows, by their number among these */                   \
    F(const float *const *const *, vectors) /* of each row: [layers * NUM_VECTORS], final norm, its shift; or null */
MIRRORED(Rows, ROWS_FIELDS);

/* What stays of the logits of a row and tile. */
typedef struct {
    float most, total;
} Part;

typedef struct {
    float *x;           /* [rows, hidden] the residual stream */
    Activations normed; /* [rows, hidden] */
    float *q, *k, *v;
    Activations mixed; /* [rows, heads * dim] */
    float *gate;
    Activations inner; /* [rows, inner] */
    Routed routed;
    float *low[NUM_TARGETS]; /* [rows, max_rank] */
    float *turned;           /* [groups, turned_size] */
    float *partials;         /* [num_partials, heads, dim + 2] */
    Activations read;        /* [rows, inputs of retaining heads] */
    float *scored;           /* [rows, their width] */
    float *room[MAX_TEAM];
    float *tile[MAX_TEAM]; /* [wanted, TILE] logits */
    Part *parts;           /* [wanted, tiles] */
    char *memory;
    size_t num_bytes;
} Workspace;

typedef struct {
    Team team;
    const Model *model;
    const Rows *rows;
    Workspace work;
    int has_heads; /* whether some segment's entries are scored by trained heads */
    int is_timed;
    double attention_seconds[MAX_TEAM]; /* of the members' processors, in steps that are timed */
} Step;

INLINE int is_coded(const Matrix *m) { return m->type >= Q8; }

/* The activations from row `row` on. */
INLINE Activations from_row(const Activations *x, int64_t row, int64_t cols) {
    int64_t at = row * cols, block = row * (cols / BLOCK);
    return (Activations){x->values + at, x->codes + at, x->scales + block, x->sums + block, x->totals + block, x->sixteens + 2 * block};
}

INLINE void quantise_row(const Activations *x, int row, int cols, int begin, int end) {
    const Activations own = from_row(x, row, cols);
    quantise(&own, begin, end);
}

#pragma GCC visibility push(hidden)

/* The share of member `id` in `count` things, in whole units. */
INLINE void share(int count, int unit, int id, int members, int *begin, int *end) {
    int64_t units = (count + unit - 1) / unit;
    *begin = (int)(units * id / members) * unit;
    *end = (int)(units * (id + 1) / members) * unit;
    *begin = *begin < count ? *begin : count;
    *end = *end < count ? *end : count;
}

/* A vector divided by the root of its mean square, times a weight. */
INLINE void normalise(const float *x, const float *weight, float *target, int size, const Model *m) {
    floats squares = {0};
    int c = 0;
    for (; c + LANES <= size; c += LANES) squares = fused(load(x + c), load(x + c), squares);
    float rest = 0;
    for (int i = c; i < size; i++) rest = fmaf(x[i], x[i], rest);
    float scale = 1.0f / sqrtf((sum(squares) + rest) / (float)size + m->epsilon);
    for (int i = 0; i < size; i++) target[i] = x[i] * scale * (weight[i] + m->norm_offset);
}

/* A vector that a row has of its own, or else the model's. */
INLINE const float *vector_of(const Step *s, int row, int place, const float *usual) {
    const float *const *own = s->rows->vectors ? s->rows->vectors[row] : NULL;
    return own && own[place] ? own[place] : usual;
}

/* Prepares the common input of `count` targets for the rows that have adapters or take parts of experts; then `widen` may
 * follow. */
void narrow(Step *s, int id, int layer, int target, int count, const Activations *x, int cols);

/* Adds the adapters' and the experts' part to the columns [begin, end) of a target's product. */
void widen(Step *s, int layer, int target, int cols, int begin, int end, float *out, int64_t stride);

/* The first matrices and the activation of a layer's MLP, up to what its last matrix reads. */
void run_mlp(Step *s, int id, int layer);

/* What a layer's experts add to the residual stream; called by all members. */
void mix_experts(Step *s, int id, int layer);

/* up = act(gate) * up, or act(up) without a gate. */
void activate(const float *gate, float *up, int count, int kind);

/* Lets trained heads score what enters the cache in a layer; called by all members, before queries and keys are turned. */
void score_entries(Step *s, int id, int layer);

/* Adds queries up for who asked for that, at the same time. */
void count_queries(Step *s, int id, int layer);

/* Attention of all rows in a layer, as member `id` does its share. */
void attend_all(Step *s, int id, int layer);

/* All of a step, as member `id` of its team does it. */
void walk(Team *team, int id);

#pragma GCC visibility pop
