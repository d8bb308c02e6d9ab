/* Documents as code points, and the room in which they are looked at. Texts are valid UTF-8, one after the other in one
 * buffer. What a character is comes from two tables over code points, made by Python from its Unicode database. */

#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mirror.h"

enum { SPACE = 1, ALPHA = 2, DIGIT = 4, PUNCTUATION = 8, UPPER = 16, SENTENCE_END = 32, LINE_END = 64, BULLET = 128, IDEOGRAPH = 256, MARK = 512 };
enum { IN_WORD = ALPHA | DIGIT | MARK };
enum { WORDS, CHARACTERS };

#define CHARACTERS_FIELDS(F) F(const uint16_t *, classes) F(const uint32_t *, lower) F(int64_t, size)
/* `size` of both tables; code points beyond them have no class. */
MIRRORED(Characters, CHARACTERS_FIELDS);

#define STOP_WORDS_FIELDS(F)                                                                                               \
    F(const uint64_t *, keys) /* open addressing, 0 is free */                                                             \
    F(const int8_t *, place)  /* of a word that Gopher asks for: which one; else -1 */                                     \
    F(int64_t, mask)
MIRRORED(StopWords, STOP_WORDS_FIELDS);

/* Room that grows to the longest document. */
typedef struct {
    uint32_t *points;
    uint64_t *hash, *gram, *line;
    uint32_t *length, *which, *count, *first, *slot, *line_length;
    int32_t *cover;
    uint8_t *is_candidate;
    int64_t size;
} Room;

static inline uint64_t mix(uint64_t bits) {
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
    return bits ^ (bits >> 31);
}

static const uint64_t FNV = 0xcbf29ce484222325u, PRIME = 0x100000001b3u, BASE = 0x9e3779b97f4a7c15u;

static inline uint16_t class_of(const Characters *table, uint32_t point) { return point < table->size ? table->classes[point] : 0; }
static inline uint32_t lower_of(const Characters *table, uint32_t point) { return point < table->size ? table->lower[point] : point; }

static inline void free_room(Room *room) {
    free(room->points), free(room->hash), free(room->gram), free(room->line), free(room->length), free(room->which), free(room->count);
    free(room->first), free(room->slot), free(room->line_length), free(room->cover), free(room->is_candidate);
    memset(room, 0, sizeof *room);
}

static inline int32_t grow(Room *room, int64_t size) {
    if (size < room->size) return 1;
    free_room(room);
    size += size / 2 + 256;
    size_t n = (size_t)size + 2;
    int64_t slots = 1;
    while (slots < 2 * (int64_t)n) slots *= 2;
    room->points = malloc(n * 4), room->hash = malloc(n * 8), room->gram = malloc(n * 8), room->line = malloc(n * 8);
    room->length = malloc(n * 4), room->which = malloc(n * 4), room->count = malloc(n * 4), room->first = malloc(n * 4);
    room->slot = malloc((size_t)slots * 4), room->line_length = malloc(n * 4), room->cover = malloc(n * 4), room->is_candidate = malloc(n);
    room->size = size;
    return room->points && room->hash && room->gram && room->line && room->length && room->which && room->count && room->first && room->slot &&
           room->line_length && room->cover && room->is_candidate;
}

static inline int64_t decode(const uint8_t *text, int64_t num_bytes, uint32_t *points) {
    int64_t n = 0;
    for (int64_t i = 0; i < num_bytes;) {
        uint32_t c = text[i];
        if (c < 0x80) points[n++] = c, i += 1;
        else if (c < 0xe0) points[n++] = (c & 0x1f) << 6 | (text[i + 1] & 0x3f), i += 2;
        else if (c < 0xf0) points[n++] = (c & 0x0f) << 12 | (uint32_t)(text[i + 1] & 0x3f) << 6 | (text[i + 2] & 0x3f), i += 3;
        else {
            points[n++] = (c & 7) << 18 | (uint32_t)(text[i + 1] & 0x3f) << 12 | (uint32_t)(text[i + 2] & 0x3f) << 6 | (text[i + 3] & 0x3f);
            i += 4;
        }
    }
    return n;
}
