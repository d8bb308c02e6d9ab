/* What a block of slots costs rows that meet it together, as it is measured here. */

#include "step_attention.h"

#include <stdlib.h>
#include <time.h>

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Returns the processor's seconds of one KV head for `num_rows` rows that share `num_slots` slots: the least of `rounds`
 * times; negative if there is no memory. */
double step_attention_cost(
    int32_t group, int32_t dim, int32_t dtype, int32_t page_size, int32_t num_rows, int32_t num_slots, int32_t rounds) {
    int num_pages = (num_slots + page_size - 1) / page_size, slots = num_pages * page_size;
    Heads heads = {.heads = group, .kv_heads = 1, .dim = dim, .scale = 0.1f};
    const Most most = {num_rows, num_rows, 1};
    int64_t width = (int64_t)group * dim, each = (int64_t)slots * dim * 4;
    size_t bytes = (size_t)(2 * each + 12 * slots + 4 * (num_pages + 6 * num_rows + 4) + 8 * width * num_rows) + 4096 +
                   4 * (size_t)attention_room(&heads, &most);
    char *memory = aligned_alloc(64, (bytes + 63) / 64 * 64), *rest = memory;
    if (!memory) return -1;
    memset(memory, 0, bytes);
    float *room = (float *)rest;
    rest += (attention_room(&heads, &most) * 4 + 63) / 64 * 64;
    Cache cache = {rest, rest + each, (int32_t *)(rest + 2 * each), NULL, NULL};
    cache.key_scales = (float *)cache.positions + slots;
    cache.value_scales = cache.key_scales + slots;
    int32_t *pages = (int32_t *)cache.value_scales + slots, *numbers = pages + num_pages;
    int32_t *positions = numbers, *starts = positions + num_rows, *contexts = starts + num_rows + 1;
    int32_t *page_starts = contexts + num_rows, *members = page_starts + num_rows + 1;
    float *queries = (float *)(members + num_rows), *target = queries + width * num_rows;
    for (int i = 0; i < num_pages; i++) pages[i] = i;
    for (int i = 0; i < num_rows; i++) {
        positions[i] = num_slots;
        starts[i] = members[i] = i;
        contexts[i] = num_slots;
    }
    starts[num_rows] = num_rows;
    const View view = {.positions = positions, .row_starts = starts, .context_lengths = contexts, .page_starts = page_starts,
                       .pages = pages, .dtype = dtype, .page_size = page_size};
    const Tile tile = {.view = &view, .heads = &heads, .cache = &cache, .num_rows = num_rows, .members = members,
                       .segments = members, .queries = queries, .target = target, .room = room, .most = &most};
    double least = INFINITY;
    for (int round = 0; round < rounds; round++) {
        double begin = seconds_now();
        attend(&tile);
        double spent = seconds_now() - begin;
        least = spent < least ? spent : least;
    }
    free(memory);
    return least;
}
