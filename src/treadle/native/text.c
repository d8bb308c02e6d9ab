/* What is counted in documents, and what near-duplicates are found by. Texts are valid UTF-8, one after the other in one
 * buffer. What a character is comes from two tables over code points, made by Python from its Unicode database. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text_json.h"

enum { SPACE = 1, ALPHA = 2, DIGIT = 4, PUNCTUATION = 8, UPPER = 16, SENTENCE_END = 32, LINE_END = 64, BULLET = 128, IDEOGRAPH = 256, MARK = 512 };
enum { IN_WORD = ALPHA | DIGIT | MARK };
enum { WORDS, CHARACTERS };
enum { SHORT_LINE = 30, MAX_GRAM = 10 };

/* The order of treadle.native.text.COUNTS. */
enum {
    CHARS, TOKENS, TOKEN_CHARS, ALPHA_CHARS, DIGIT_CHARS, PUNCTUATION_CHARS, CURLY_BRACES, BRACKETED_CHARS, HASH_CHARS, HASH_RUNS,
    ELLIPSIS_RUNS, SENTENCES, LINES, SHORT_LINES, ENDED_LINES, ELLIPSIS_LINES, BULLET_LINES, READ_MORE_LINES, DUPLICATE_LINES,
    DUPLICATE_LINE_CHARS, PARAGRAPHS, DUPLICATE_PARAGRAPHS, DUPLICATE_PARAGRAPH_CHARS, WORD_COUNT, WORD_CHARS, ALPHA_WORDS,
    CAPITAL_WORDS, STOP_WORDS, DISTINCT_STOP_WORDS, UNIQUE_TOKENS, TOP_2_GRAM, DUPLICATE_5_GRAM = TOP_2_GRAM + 3, NEWLINES = DUPLICATE_5_GRAM + 6,
    NUM_COUNTS
};

static const uint32_t *const READ_MORE[] = {U"read more", U"readmore", U"展开", U"更多", U"。。。", 0};
static const uint32_t *const ELLIPSES[] = {U"...", U"…", U"。。。", 0};

typedef struct {
    const uint16_t *classes;
    const uint32_t *lower;
    int64_t size; /* of both tables; code points beyond them have no class */
} Characters;

typedef struct {
    const uint64_t *keys; /* open addressing, 0 is free */
    const int8_t *place;  /* of a word that Gopher asks for: which one; else -1 */
    int64_t mask;
} StopWords;

/* Room that grows to the longest document. */
typedef struct {
    uint32_t *points;
    uint64_t *hash, *gram, *line;
    uint32_t *length, *which, *count, *first, *slot, *line_length;
    int32_t *cover;
    uint8_t *is_candidate;
    int64_t size;
} Room;

static uint64_t mix(uint64_t bits) {
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
    return bits ^ (bits >> 31);
}

static const uint64_t FNV = 0xcbf29ce484222325u, PRIME = 0x100000001b3u, BASE = 0x9e3779b97f4a7c15u;

static uint16_t class_of(const Characters *table, uint32_t point) { return point < table->size ? table->classes[point] : 0; }
static uint32_t lower_of(const Characters *table, uint32_t point) { return point < table->size ? table->lower[point] : point; }

static void free_room(Room *room) {
    free(room->points), free(room->hash), free(room->gram), free(room->line), free(room->length), free(room->which), free(room->count);
    free(room->first), free(room->slot), free(room->line_length), free(room->cover), free(room->is_candidate);
    memset(room, 0, sizeof *room);
}

static int32_t grow(Room *room, int64_t size) {
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

static int64_t decode(const uint8_t *text, int64_t num_bytes, uint32_t *points) {
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

#include "text_similar.h"

/* Gives equal keys equal numbers, counted from 0 in the order of their first places; `is_candidate` may exclude places. */
static int64_t number(Room *room, const uint64_t *keys, const uint8_t *is_candidate, int64_t n) {
    int64_t wanted = n, found = 0, slots = 16;
    if (is_candidate) {
        wanted = 0;
        for (int64_t i = 0; i < n; i++) wanted += is_candidate[i];
    }
    int shift = 60;
    while (slots < 2 * wanted) slots *= 2, shift--;
    memset(room->slot, 0xff, (size_t)slots * 4);
    for (int64_t i = 0; i < n; i++) {
        if (is_candidate && !is_candidate[i]) continue;
        uint64_t key = keys[i], place = key * BASE >> shift;
        while (room->slot[place] != UINT32_MAX && keys[room->first[room->slot[place]]] != key) place = (place + 1) & (uint64_t)(slots - 1);
        if (room->slot[place] == UINT32_MAX) {
            room->slot[place] = (uint32_t)found, room->first[found] = (uint32_t)i, room->count[found] = 0;
            found++;
        }
        room->which[i] = room->slot[place];
        room->count[room->slot[place]]++;
    }
    return found;
}

static void count_characters(const Characters *table, const uint32_t *p, int64_t n, int64_t *counts) {
    int64_t sentence = 0, bracket = -1;
    uint32_t before = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t c = p[i];
        uint16_t kind = class_of(table, c);
        counts[ALPHA_CHARS] += (kind & ALPHA) != 0, counts[DIGIT_CHARS] += (kind & DIGIT) != 0;
        counts[PUNCTUATION_CHARS] += (kind & PUNCTUATION) != 0;
        sentence |= kind & (ALPHA | DIGIT);
        if (kind & SENTENCE_END) counts[SENTENCES] += sentence != 0, sentence = 0;
        if (kind & PUNCTUATION || c > 0x7f) {
            if (c == '{' || c == '}') counts[CURLY_BRACES]++;
            if (c == '#') counts[HASH_CHARS]++, counts[HASH_RUNS] += before != '#';
            if (c == 0x2026) counts[ELLIPSIS_RUNS] += before != 0x2026;
            if (c == '.' && before == '.' && i > 1 && p[i - 2] == '.') counts[ELLIPSIS_RUNS] += i < 3 || p[i - 3] != '.';
            if (c == 0x3010 && bracket < 0) bracket = i;
            if (c == 0x3011 && bracket >= 0) counts[BRACKETED_CHARS] += i - bracket - 1, bracket = -1;
        }
        counts[NEWLINES] += c == '\n';
        before = c;
    }
    counts[SENTENCES] += sentence != 0;
    counts[CHARS] = n;
}

/* The words between white space: their hashes and lengths, and what is said of each of them. */
static int64_t count_words(const Characters *table, const StopWords *stop, const uint32_t *p, int64_t n, Room *room, int64_t *counts) {
    int64_t words = 0, seen = 0;
    for (int64_t i = 0; i < n;) {
        while (i < n && class_of(table, p[i]) & SPACE) i++;
        if (i == n) break;
        int64_t start = i, letters = 0, capitals = 0;
        uint64_t hash = FNV, plain = FNV, inner = FNV;
        for (uint16_t kind; i < n && !((kind = class_of(table, p[i])) & SPACE); i++) {
            hash = (hash ^ p[i]) * PRIME;
            letters += (kind & ALPHA) != 0, capitals += (kind & UPPER) != 0;
            if (kind & IN_WORD || plain != FNV) inner = (inner ^ lower_of(table, p[i])) * PRIME;
            if (kind & IN_WORD) plain = inner; /* what stands between the punctuation at both ends */
        }
        room->hash[words] = mix(hash), room->length[words] = (uint32_t)(i - start);
        words++, counts[WORD_CHARS] += i - start;
        counts[ALPHA_WORDS] += letters > 0, counts[CAPITAL_WORDS] += letters > 1 && letters == capitals;
        uint64_t place = mix(plain) & (uint64_t)stop->mask;
        while (stop->keys[place] && stop->keys[place] != plain) place = (place + 1) & (uint64_t)stop->mask;
        if (stop->keys[place]) {
            counts[STOP_WORDS]++;
            if (stop->place[place] >= 0) seen |= (int64_t)1 << stop->place[place];
        }
    }
    counts[WORD_COUNT] = words, counts[DISTINCT_STOP_WORDS] = __builtin_popcountll((uint64_t)seen);
    return words;
}

static int32_t ends_with(const Characters *table, const uint32_t *p, int64_t n, const uint32_t *const *endings) {
    for (; *endings; endings++) {
        int64_t size = 0;
        while ((*endings)[size]) size++;
        int64_t same = 0;
        while (size <= n && same < size && lower_of(table, p[n - size + same]) == (*endings)[same]) same++;
        if (same == size) return 1;
    }
    return 0;
}

/* Sums, over all but the first place of every number, one and the lengths. */
static void count_copies(Room *room, int64_t n, int64_t *copies, int64_t *chars) {
    number(room, room->line, 0, n);
    for (int64_t i = 0; i < n; i++)
        if (room->first[room->which[i]] != i) ++*copies, *chars += room->line_length[i];
}

static void count_lines(const Characters *table, const uint32_t *p, int64_t n, Room *room, int64_t *counts) {
    int64_t lines = 0, paragraphs = 0, is_open = 0;
    uint64_t *paragraph = room->gram; /* not yet in use */
    uint32_t *paragraph_length = (uint32_t *)room->cover;
    for (int64_t start = 0; start <= n;) {
        int64_t stop = start;
        while (stop < n && p[stop] != '\n') stop++;
        int64_t first = start, last = stop;
        while (first < last && class_of(table, p[first]) & SPACE) first++;
        while (last > first && class_of(table, p[last - 1]) & SPACE) last--;
        start = stop + 1;
        if (first == last) {
            is_open = 0;
            continue;
        }
        const uint32_t *line = p + first;
        int64_t size = last - first;
        uint64_t hash = FNV;
        for (int64_t i = 0; i < size; i++) hash = (hash ^ line[i]) * PRIME;
        hash = mix(hash);
        if (!is_open) paragraph[paragraphs] = 0, paragraph_length[paragraphs] = 0, paragraphs++;
        is_open = 1;
        paragraph[paragraphs - 1] = paragraph[paragraphs - 1] * BASE + hash, paragraph_length[paragraphs - 1] += (uint32_t)size;
        room->line[lines] = hash, room->line_length[lines] = (uint32_t)size, lines++;
        counts[SHORT_LINES] += size <= SHORT_LINE, counts[ENDED_LINES] += (class_of(table, line[size - 1]) & LINE_END) != 0;
        counts[BULLET_LINES] += (class_of(table, line[0]) & BULLET) != 0;
        counts[ELLIPSIS_LINES] += ends_with(table, line, size, ELLIPSES), counts[READ_MORE_LINES] += ends_with(table, line, size, READ_MORE);
    }
    counts[LINES] = lines, counts[PARAGRAPHS] = paragraphs;
    count_copies(room, lines, &counts[DUPLICATE_LINES], &counts[DUPLICATE_LINE_CHARS]);
    memcpy(room->line, paragraph, (size_t)paragraphs * 8), memcpy(room->line_length, paragraph_length, (size_t)paragraphs * 4);
    count_copies(room, paragraphs, &counts[DUPLICATE_PARAGRAPHS], &counts[DUPLICATE_PARAGRAPH_CHARS]);
}

/* Characters in the most frequent n-gram (of equally frequent ones the longest), all its places together. */
static int64_t top_chars(const Room *room, const uint32_t *before, int64_t found, int64_t n) {
    int64_t most = 1, chars = 0;
    for (int64_t entry = 0; entry < found; entry++) {
        int64_t count = room->count[entry], size = before[room->first[entry] + n] - before[room->first[entry]];
        if (count > most || (count == most && count > 1 && count * size > chars)) most = count, chars = count * size;
    }
    return chars;
}

/* Characters in n-grams that stand more than once; each place counts once, however many n-grams cover it. */
static int64_t covered_chars(Room *room, const uint8_t *is_copy, int64_t tokens, int64_t n) {
    int64_t chars = 0, open = 0;
    memset(room->cover, 0, (size_t)(tokens + 1) * 4);
    for (int64_t i = 0; i + n <= tokens; i++)
        if (is_copy[i]) room->cover[i]++, room->cover[i + n]--;
    for (int64_t i = 0; i < tokens; i++) {
        open += room->cover[i];
        if (open > 0) chars += room->length[i];
    }
    return chars;
}

static double count_tokens(Room *room, int64_t tokens, int64_t *counts) {
    uint32_t *before = room->line_length; /* characters before each token; lines are counted already */
    before[0] = 0;
    for (int64_t i = 0; i < tokens; i++) before[i + 1] = before[i] + room->length[i];
    counts[TOKENS] = tokens, counts[TOKEN_CHARS] = before[tokens];
    int64_t found = number(room, room->hash, 0, tokens), repeated = 0;
    double entropy = 0;
    for (int64_t entry = 0; entry < found; entry++) {
        double share = (double)room->count[entry] / (double)tokens;
        entropy -= share * log(share);
    }
    counts[UNIQUE_TOKENS] = found;
    for (int64_t i = 0; i < tokens; i++) room->is_candidate[i] = room->count[room->which[i]] > 1, room->gram[i] = room->hash[i];
    for (int64_t n = 2; n <= MAX_GRAM && n <= tokens; n++) {
        int64_t places = tokens - n + 1;
        /* An n-gram can stand twice only if both (n-1)-grams in it do. */
        for (int64_t i = 0; i < places; i++) {
            room->is_candidate[i] &= room->is_candidate[i + 1];
            room->gram[i] = room->gram[i] * BASE + room->hash[i + n - 1];
        }
        found = number(room, room->gram, room->is_candidate, places), repeated = 0;
        if (n <= 4) counts[TOP_2_GRAM + n - 2] = top_chars(room, before, found, n);
        for (int64_t i = 0; i < places; i++) repeated += room->is_candidate[i] = room->is_candidate[i] && room->count[room->which[i]] > 1;
        if (!repeated) break;
        if (n >= 5) counts[DUPLICATE_5_GRAM + n - 5] = covered_chars(room, room->is_candidate, tokens, n);
    }
    return entropy;
}

/* Counts documents first to last: counts[documents][NUM_COUNTS], entropy[documents] in nats. Returns 0 if memory ends. */
int32_t count_documents(const uint8_t *texts, const int64_t *offsets, int64_t first, int64_t last, int32_t unit, const Characters *table,
                        const StopWords *stop, int64_t *counts, double *entropy) {
    Room room = {0};
    for (int64_t i = first; i < last; i++) {
        int64_t num_bytes = offsets[i + 1] - offsets[i];
        if (!grow(&room, num_bytes)) return free_room(&room), 0;
        int64_t *row = counts + i * NUM_COUNTS, n = decode(texts + offsets[i], num_bytes, room.points);
        memset(row, 0, NUM_COUNTS * sizeof(int64_t));
        count_characters(table, room.points, n, row);
        count_lines(table, room.points, n, &room, row);
        int64_t tokens = count_words(table, stop, room.points, n, &room, row);
        if (unit == CHARACTERS) {
            tokens = 0;
            for (int64_t k = 0; k < n; k++)
                if (!(class_of(table, room.points[k]) & SPACE)) room.hash[tokens] = mix(room.points[k]), room.length[tokens] = 1, tokens++;
        }
        entropy[i] = count_tokens(&room, tokens, row);
    }
    free_room(&room);
    return 1;
}

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
