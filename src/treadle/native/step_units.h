/* Packed entries as floats, a block at a time: see runtime/cache/units.py for how they lie. */

#pragma once

#include "step_attention.h"

enum { SHARED = 32 }; /* numbers that share a scale and a minimum */

/* A plane of a unit, of keys or of values. */
INLINE const uint8_t *unit_plane(const Plane *p, const void *array, int unit, int plane) {
    int64_t number = p->units.pages[unit * (p->units.planes + 1) + plane];
    return (const uint8_t *)array + number * p->size * p->dim * bytes_of(p->dtype);
}

/* The scale and the minimum at place `at` of a plane of scales. */
INLINE void scale_at(const uint8_t *plane, int64_t at, float *scale, float *minimum) {
    uint16_t both[2];
    memcpy(both, plane + 4 * at, sizeof both);
    *scale = half_of(both[0]);
    *minimum = half_of(both[1]);
}

/* to[i] = minimum + scale * the code at `shift` of byte i. */
INLINE void unpack_run(const uint8_t *from, int shift, int bits, float scale, float minimum, int count, float *to) {
    int mask = (1 << bits) - 1, i = 0;
    for (; i + LANES <= count; i += LANES) {
        bytes narrow;
        memcpy(&narrow, from + i, sizeof narrow);
        ints wide = __builtin_convertvector(narrow, ints) >> shift & mask;
        store(to + i, fused(spread(scale), __builtin_convertvector(wide, floats), spread(minimum)));
    }
    for (; i < count; i++) to[i] = fmaf(scale, (float)(from[i] >> shift & mask), minimum);
}

/* Writes keys [dim, SLOTS] of the block at `first`. */
INLINE void unpack_keys(const Plane *p, int first, float *keys) {
    const Units *u = &p->units;
    int unit = first / UNIT, begin = first % UNIT, row = UNIT * u->bits / 8, dims = p->dim / u->planes;
    const uint8_t *scales = unit_plane(p, p->cache->keys, unit, u->planes);
    for (int c = 0; c < p->dim; c++) {
        const uint8_t *codes = unit_plane(p, p->cache->keys, unit, c / dims) + c % dims * row;
        for (int j = 0; j < SLOTS; j += SHARED) {
            float scale, minimum;
            scale_at(scales, (begin + j) / SHARED * p->dim + c, &scale, &minimum);
            int slot = begin + j;
            unpack_run(codes + slot % row, slot / row * u->bits, u->bits, scale, minimum, SHARED, keys + c * SLOTS + j);
        }
    }
}

/* Writes values [SLOTS, dim] of the same. */
INLINE void unpack_values(const Plane *p, int first, float *values) {
    const Units *u = &p->units;
    int unit = first / UNIT, row = p->dim * u->bits / 8, tokens = UNIT / u->planes, run = row < SHARED ? row : SHARED;
    const uint8_t *scales = unit_plane(p, p->cache->values, unit, u->planes);
    for (int j = 0; j < SLOTS; j++) {
        int token = first % UNIT + j;
        const uint8_t *codes = unit_plane(p, p->cache->values, unit, token / tokens) + token % tokens * row;
        for (int c = 0; c < p->dim; c += run) {
            float scale, minimum;
            scale_at(scales, (int64_t)token * (p->dim / SHARED) + c / SHARED, &scale, &minimum);
            unpack_run(codes + c % row, c / row * u->bits, u->bits, scale, minimum, run, values + j * p->dim + c);
        }
    }
}

/* Where a block of packed slots lies when it is copied to `room`, as floats. */
INLINE void unpack(const Plane *p, int first, float *room, Places *found) {
    float *keys = room, *values = keys + SLOTS * p->dim;
    unpack_keys(p, first, keys);
    unpack_values(p, first, values);
    *found = (Places){.stride = SLOTS, .num_slots = SLOTS, .num_groups = GROUPS};
    for (int group = 0; group < GROUPS; group++) {
        found->keys[group] = keys + group * LANES;
        found->values[group] = values + group * LANES * p->dim;
    }
}
