/* What near-duplicates are found by: runs of words, MinHash, sets of shingles; lines of JSON, and lines that are alike. */

#include "text_room.h"
#include "text_json.h"
#include "text_similar.h"
#include "text_leaders.h"

/* The hashes of the runs of `size` words (lower-cased runs of letters, digits and marks; an ideograph is a word) or of
 * `size` such characters. Returns how many; they stand in room->gram. A shingle
 * of MinHash is the upper half of one. */
static int64_t hash_runs(const Characters *table, const uint8_t *text, int64_t num_bytes, int32_t unit, int64_t size, Room *room) {
    int64_t n = decode(text, num_bytes, room->points), tokens = 0;
    const uint32_t *p = room->points;
    for (int64_t i = 0; i < n;) {
        uint16_t kind = class_of(table, p[i]);
        if (!(kind & IN_WORD)) {
            i++;
            continue;
        }
        uint64_t hash = (FNV ^ lower_of(table, p[i++])) * PRIME;
        if (unit == WORDS && !(kind & IDEOGRAPH))
            for (; i < n && (kind = class_of(table, p[i])) & IN_WORD && !(kind & IDEOGRAPH); i++) hash = (hash ^ lower_of(table, p[i])) * PRIME;
        room->hash[tokens++] = mix(hash);
    }
    if (tokens < size) return 0;
    uint64_t rolling = 0, leading = 1;
    for (int64_t i = 0; i < size; i++) rolling = rolling * BASE + room->hash[i], leading *= i ? BASE : 1;
    for (int64_t i = 0;; i++) {
        room->gram[i] = mix(rolling);
        if (i + size == tokens) return i + 1;
        rolling = (rolling - room->hash[i] * leading) * BASE + room->hash[i + size];
    }
}

/* MinHash: slot p is the smallest upper half of multiply[p] * shingle + add[p]; a band's key is the hash of its slots:
 * keys[documents][bands], num_shingles[documents]. A document without a shingle has keys 0. Returns 0 if memory ends. */
int32_t minhash_documents(const uint8_t *texts, const int64_t *offsets, int64_t first, int64_t last, int32_t unit, int64_t size, const Characters *table,
                          const uint64_t *multiply, const uint64_t *add, int64_t bands, int64_t rows, uint64_t *keys, int64_t *num_shingles) {
    int64_t slots = bands * rows;
    Room room = {0};
    uint32_t *slot = malloc((size_t)slots * 4);
    for (int64_t i = first; slot && i < last; i++) {
        int64_t num_bytes = offsets[i + 1] - offsets[i];
        if (!grow(&room, num_bytes)) break;
        int64_t found = num_shingles[i] = hash_runs(table, texts + offsets[i], num_bytes, unit, size, &room);
        memset(slot, 0xff, (size_t)slots * 4), memset(keys + i * bands, 0, (size_t)bands * 8);
        for (int64_t k = 0; k < found; k++) {
            uint64_t x = room.gram[k] >> 32;
            for (int64_t p = 0; p < slots; p++) {
                uint32_t value = (uint32_t)((multiply[p] * x + add[p]) >> 32);
                slot[p] = value < slot[p] ? value : slot[p];
            }
        }
        for (int64_t band = 0; found && band < bands; band++) {
            uint64_t key = (uint64_t)band + 1;
            for (int64_t row = 0; row < rows; row++) key = mix(key ^ slot[band * rows + row]) * BASE;
            keys[i * bands + band] = key;
        }
        if (i + 1 == last) return free_room(&room), free(slot), 1;
    }
    free_room(&room), free(slot);
    return first == last;
}

static int order(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

/* The distinct shingles of each document in order, one document after the other; ends[documents] says where each ends. */
int32_t shingle_documents(const uint8_t *texts, const int64_t *offsets, int64_t documents, int32_t unit, int64_t size, const Characters *table,
                          uint32_t *shingles, int64_t *ends) {
    Room room = {0};
    int64_t stop = 0;
    for (int64_t i = 0; i < documents; i++) {
        int64_t num_bytes = offsets[i + 1] - offsets[i];
        if (!grow(&room, num_bytes)) return free_room(&room), 0;
        int64_t found = hash_runs(table, texts + offsets[i], num_bytes, unit, size, &room), start = stop;
        for (int64_t k = 0; k < found; k++) shingles[start + k] = (uint32_t)(room.gram[k] >> 32);
        qsort(shingles + start, (size_t)found, 4, order);
        for (int64_t k = 0; k < found; k++)
            if (stop == start || shingles[start + k] != shingles[stop - 1]) shingles[stop++] = shingles[start + k];
        ends[i] = stop;
    }
    free_room(&room);
    return 1;
}

/* The hashes of all runs of each document in their order, one document after the other. */
int32_t run_documents(const uint8_t *texts, const int64_t *offsets, int64_t documents, int32_t unit, int64_t size, const Characters *table,
                      uint64_t *runs, int64_t *ends) {
    Room room = {0};
    int64_t stop = 0;
    for (int64_t i = 0; i < documents; i++) {
        int64_t num_bytes = offsets[i + 1] - offsets[i];
        if (!grow(&room, num_bytes)) return free_room(&room), 0;
        int64_t found = hash_runs(table, texts + offsets[i], num_bytes, unit, size, &room);
        memcpy(runs + stop, room.gram, (size_t)found * 8);
        ends[i] = stop += found;
    }
    free_room(&room);
    return 1;
}

/* |A and B| / |A or B| of pairs of such sets; 0 where both are empty. starts[sets + 1] says where each begins. */
void jaccard(const uint32_t *shingles, const int64_t *starts, const int64_t *left, const int64_t *right, int64_t pairs, double *found) {
    for (int64_t i = 0; i < pairs; i++) {
        int64_t a = starts[left[i]], a_end = starts[left[i] + 1], b = starts[right[i]], b_end = starts[right[i] + 1];
        int64_t all = a_end - a + b_end - b, both = 0;
        while (a < a_end && b < b_end) {
            uint32_t x = shingles[a], y = shingles[b];
            both += x == y, a += x <= y, b += y <= x;
        }
        found[i] = all ? (double)both / (double)(all - both) : 0;
    }
}

static int64_t root(int64_t *parent, int64_t i) {
    while (parent[i] != i) parent[i] = parent[parent[i]], i = parent[i];
    return i;
}

/* Joins the trees of each pair of documents; the root of a tree is its smallest document. */
void unite(int64_t *parent, const int64_t *left, const int64_t *right, int64_t pairs) {
    for (int64_t i = 0; i < pairs; i++) {
        int64_t a = root(parent, left[i]), b = root(parent, right[i]);
        if (a < b) parent[b] = a;
        else parent[a] = b;
    }
}

MIRRORS(MIRROR_STRUCT(Characters, CHARACTERS_FIELDS); MIRROR_STRUCT(StopWords, STOP_WORDS_FIELDS))
