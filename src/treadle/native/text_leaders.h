/* Which documents of a cluster stay: each one goes for the first of those that stay to which it is similar enough. Exact, and far from
 * comparing all with all: two sets with overlap >= alpha share one of their rarest |x| - alpha + 1 shingles (prefix filter, Xiao et al.,
 * 2008), and sketches of parities bound from below how many shingles differ. */

enum { SKETCH = 16, BRIEF = 4, FEW = 24 };

typedef struct {
    int64_t postings, next; /* of the first posting, of the token's next class */
    int64_t size, least;    /* of the sets in it; the least place of the token in one */
    int64_t count;          /* of its postings */
} Class;

typedef struct {
    int64_t leader, place, next;
} Posting;

typedef struct {
    uint32_t *value;   /* [mask + 1] */
    uint32_t *count;   /* in how many sets of the cluster; 0: free */
    int64_t *classes;  /* the first class, or -1 */
    int64_t mask;
    uint64_t *tokens;  /* count << 32 | value, rising in each set: the rarest first */
    int64_t *slots;    /* of each token in the table */
    int64_t *starts;   /* of each row's set */
    uint64_t *sketch;  /* [rows][SKETCH] */
    int64_t *seen;     /* the row that last looked at a leader */
    int64_t *rows;     /* of the leaders, in their order */
    uint64_t *brief;   /* [leaders][BRIEF], their sketches folded */
    int64_t *overlap;  /* least one with a set of a size, as the row asked_by[size] asked */
    int64_t *asked_by;
    int64_t num_leaders;
    Class *class;
    Posting *posting;
    int64_t num_classes, num_postings, class_room, posting_room;
} Leaders;

static void free_leaders(Leaders *l) {
    free(l->value), free(l->count), free(l->classes), free(l->tokens), free(l->slots), free(l->starts), free(l->sketch), free(l->seen);
    free(l->class), free(l->posting), free(l->rows), free(l->brief), free(l->overlap), free(l->asked_by);
}

static int64_t slot_of(const Leaders *l, uint32_t value) {
    int64_t slot = (int64_t)(mix(value) & (uint64_t)l->mask);
    while (l->count[slot] && l->value[slot] != value) slot = (slot + 1) & l->mask;
    return slot;
}

static int rising(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

/* |A and B| / |A or B|, as it is compared and reported everywhere. */
static double similarity_of(int64_t both, int64_t all) { return all ? (double)both / (double)(all - both) : 0; }

/* The least overlap of sets of a and b shingles whose similarity reaches the threshold. */
static int64_t least_overlap(double threshold, int64_t a, int64_t b) {
    int64_t low = (int64_t)(threshold / (1 + threshold) * (double)(a + b)) - 1;
    if (low < 0) low = 0;
    while (similarity_of(low, a + b) < threshold && low <= a && low <= b) low++;
    return low;
}

/* Makes the table of shingles twice as large. */
static int32_t widen(Leaders *l) {
    Leaders old = *l;
    l->mask = 2 * old.mask + 1;
    l->value = malloc((size_t)(l->mask + 1) * 4), l->count = calloc((size_t)(l->mask + 1), 4);
    for (int64_t i = 0; l->value && l->count && i <= old.mask; i++)
        if (old.count[i]) {
            int64_t slot = slot_of(l, old.value[i]);
            l->value[slot] = old.value[i], l->count[slot] = old.count[i];
        }
    free(old.value), free(old.count);
    return l->value && l->count;
}

/* Says in how many sets of the rows each shingle is. */
static int32_t count_shingles(Leaders *l, const uint32_t *shingles, const int64_t *starts, const int64_t *sets, int64_t rows) {
    int64_t used = 0;
    l->mask = 1023;
    l->value = malloc((size_t)(l->mask + 1) * 4), l->count = calloc((size_t)(l->mask + 1), 4);
    if (!l->value || !l->count) return 0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = starts[sets[i]]; k < starts[sets[i] + 1]; k++) {
            int64_t slot = slot_of(l, shingles[k]);
            used += !l->count[slot];
            l->value[slot] = shingles[k], l->count[slot]++;
            if (2 * used > l->mask && !widen(l)) return 0;
        }
    return 1;
}

/* Counts, sorts and sketches the sets of the rows. */
static int32_t prepare(Leaders *l, const uint32_t *shingles, const int64_t *starts, const int64_t *sets, int64_t rows) {
    int64_t total = 0, largest = 0;
    for (int64_t i = 0; i < rows; i++) {
        int64_t size = starts[sets[i] + 1] - starts[sets[i]];
        total += size, largest = size > largest ? size : largest;
    }
    if (!count_shingles(l, shingles, starts, sets, rows)) return 0;
    l->classes = malloc((size_t)(l->mask + 1) * 8);
    l->tokens = malloc((size_t)(total + 1) * 8), l->slots = malloc((size_t)(total + 1) * 8), l->starts = malloc((size_t)(rows + 1) * 8);
    l->sketch = calloc((size_t)rows * SKETCH, 8), l->seen = malloc((size_t)rows * 8);
    l->rows = malloc((size_t)rows * 8), l->brief = malloc((size_t)rows * BRIEF * 8);
    l->overlap = malloc((size_t)(largest + 1) * 8), l->asked_by = malloc((size_t)(largest + 1) * 8);
    if (!l->classes || !l->tokens || !l->slots || !l->starts || !l->sketch || !l->seen) return 0;
    if (!l->rows || !l->brief || !l->overlap || !l->asked_by) return 0;
    for (int64_t i = 0; i <= largest; i++) l->asked_by[i] = -1;
    for (int64_t i = 0; i <= l->mask; i++) l->classes[i] = -1;
    int64_t stop = 0;
    for (int64_t i = 0; i < rows; i++) {
        l->starts[i] = stop, l->seen[i] = -1;
        for (int64_t k = starts[sets[i]]; k < starts[sets[i] + 1]; k++) {
            uint64_t hash = mix(shingles[k]) >> 32;
            l->sketch[i * SKETCH + (int64_t)(hash / 64 % SKETCH)] ^= (uint64_t)1 << (hash % 64);
            l->tokens[stop++] = (uint64_t)l->count[slot_of(l, shingles[k])] << 32 | shingles[k];
        }
        qsort(l->tokens + l->starts[i], (size_t)(stop - l->starts[i]), 8, rising);
        for (int64_t k = l->starts[i]; k < stop; k++) l->slots[k] = slot_of(l, (uint32_t)l->tokens[k]);
    }
    l->starts[rows] = stop;
    return 1;
}

/* The overlap of two rows' sets, or -1 if it is below `least`: rare shingles come first, so that it is known soon. */
static int64_t overlap_of(const Leaders *l, int64_t x, int64_t y, int64_t least) {
    int64_t i = l->starts[x], i_end = l->starts[x + 1], j = l->starts[y], j_end = l->starts[y + 1], both = 0;
    int64_t spare = i_end - i + j_end - j - 2 * least, differ = 0;
    for (int64_t k = 0; k < SKETCH; k++) differ += __builtin_popcountll(l->sketch[x * SKETCH + k] ^ l->sketch[y * SKETCH + k]);
    if (differ > spare) return -1;
    while (i < i_end && j < j_end && spare >= 0) {
        uint64_t a = l->tokens[i], b = l->tokens[j];
        both += a == b, spare -= a != b, i += a <= b, j += b <= a;
    }
    return spare < 0 || both < least ? -1 : both;
}

static int32_t share_a_band(const uint64_t *keys, int64_t bands, int64_t x, int64_t y) {
    for (int64_t b = 0; b < bands; b++)
        if (keys[x * bands + b] == keys[y * bands + b]) return 1;
    return !bands;
}

/* Looks at one leader; the best so far stands in *best. */
static void look(const Leaders *l, int64_t x, int64_t y, double threshold, const uint64_t *keys, int64_t bands, int64_t *best, double *similar) {
    int64_t a = l->starts[x + 1] - l->starts[x], b = l->starts[y + 1] - l->starts[y];
    if (y >= *best || !share_a_band(keys, bands, x, y)) return;
    int64_t both = overlap_of(l, x, y, least_overlap(threshold, a, b));
    if (both >= 0 && similarity_of(both, a + b) >= threshold) *best = y, *similar = similarity_of(both, a + b);
}

static void fold(const uint64_t *sketch, uint64_t *brief) {
    for (int64_t k = 0; k < BRIEF; k++) brief[k] = 0;
    for (int64_t k = 0; k < SKETCH; k++) brief[k % BRIEF] ^= sketch[k];
}

/* The least overlap of row x with a set of `other` shingles, remembered. */
static int64_t overlap_with(Leaders *l, int64_t x, int64_t other, double threshold) {
    if (l->asked_by[other] != x) l->asked_by[other] = x, l->overlap[other] = least_overlap(threshold, l->starts[x + 1] - l->starts[x], other);
    return l->overlap[other];
}

/* Looks at all leaders in their order, by their brief sketches. */
static void scan(Leaders *l, int64_t x, double threshold, const uint64_t *keys, int64_t bands, int64_t *best, double *similar) {
    uint64_t own[BRIEF];
    fold(l->sketch + x * SKETCH, own);
    int64_t size = l->starts[x + 1] - l->starts[x];
    for (int64_t k = 0; k < l->num_leaders && l->rows[k] < *best; k++) {
        int64_t y = l->rows[k], other = l->starts[y + 1] - l->starts[y], differ = 0;
        for (int64_t w = 0; w < BRIEF; w++) differ += __builtin_popcountll(own[w] ^ l->brief[k * BRIEF + w]);
        if (differ <= size + other - 2 * overlap_with(l, x, other, threshold)) look(l, x, y, threshold, keys, bands, best, similar);
    }
}

/* Looks at the leaders that can be similar to row x: those that share a rare shingle with it, or all, if these are no fewer. */
static void search(Leaders *l, int64_t x, double threshold, const uint64_t *keys, int64_t bands, int64_t *best, double *similar) {
    int64_t size = l->starts[x + 1] - l->starts[x], most = size - least_overlap(threshold, size, (int64_t)(threshold * (double)size)), found = 0;
    for (int32_t counting = 1; counting >= 0; counting--) {
        for (int64_t i = 0; i <= most && i < size; i++)
            for (int64_t c = l->classes[l->slots[l->starts[x] + i]]; c >= 0; c = l->class[c].next) {
                int64_t other = l->class[c].size, least = overlap_with(l, x, other, threshold);
                if (least > size - i || least > other - l->class[c].least) continue;
                found += counting ? l->class[c].count : 0;
                for (int64_t p = counting ? -1 : l->class[c].postings; p >= 0; p = l->posting[p].next) {
                    int64_t y = l->posting[p].leader;
                    if (y >= *best || l->seen[y] == x || least > other - l->posting[p].place) continue;
                    l->seen[y] = x;
                    look(l, x, y, threshold, keys, bands, best, similar);
                }
            }
        if (found > l->num_leaders) {
            scan(l, x, threshold, keys, bands, best, similar);
            return;
        }
    }
}

static void *grown(void *old, int64_t *room, int64_t wanted, size_t size) {
    if (wanted < *room) return old;
    *room = 2 * wanted + 64;
    return realloc(old, (size_t)*room * size);
}

/* Lets later rows find row x. */
static int32_t enter(Leaders *l, int64_t x, double threshold) {
    fold(l->sketch + x * SKETCH, l->brief + l->num_leaders * BRIEF);
    l->rows[l->num_leaders++] = x;
    int64_t size = l->starts[x + 1] - l->starts[x], least = (int64_t)(threshold * (double)size) - 1;
    for (int64_t j = 0; j < size && j <= size - (least > 0 ? least : 0); j++) {
        int64_t *first = &l->classes[l->slots[l->starts[x] + j]], c = *first;
        while (c >= 0 && l->class[c].size != size) c = l->class[c].next;
        if (c < 0) {
            Class *grown_class = grown(l->class, &l->class_room, l->num_classes, sizeof(Class));
            if (!grown_class) return 0;
            l->class = grown_class, c = l->num_classes++;
            l->class[c] = (Class){-1, *first, size, j, 0}, *first = c;
        }
        Posting *grown_posting = grown(l->posting, &l->posting_room, l->num_postings, sizeof(Posting));
        if (!grown_posting) return 0;
        l->posting = grown_posting;
        l->posting[l->num_postings] = (Posting){x, j, l->class[c].postings};
        l->class[c].postings = l->num_postings++, l->class[c].count++;
        if (j < l->class[c].least) l->class[c].least = j;
    }
    return 1;
}

/* The similarity of two sets as they lie. */
static double plain_similarity(const uint32_t *shingles, const int64_t *starts, int64_t left, int64_t right) {
    int64_t a = starts[left], a_end = starts[left + 1], b = starts[right], b_end = starts[right + 1], both = 0, all = a_end - a + b_end - b;
    while (a < a_end && b < b_end) {
        uint32_t x = shingles[a], y = shingles[b];
        both += x == y, a += x <= y, b += y <= x;
    }
    return similarity_of(both, all);
}

/* A small cluster: all are compared with all that stay. */
static void lead_few(const uint32_t *shingles, const int64_t *starts, const int64_t *sets, const uint8_t *stays, int64_t rows, double threshold,
                     const uint64_t *keys, int64_t bands, int64_t *leader, double *similar) {
    for (int64_t x = 0; x < rows; x++) {
        leader[x] = -1;
        for (int64_t y = 0; y < x && !stays[x] && leader[x] < 0; y++) {
            if (leader[y] >= 0 || !share_a_band(keys, bands, x, y)) continue;
            double found = plain_similarity(shingles, starts, sets[x], sets[y]);
            if (found >= threshold) leader[x] = y, similar[x] = found;
        }
    }
}

/* One cluster; rows in the order in which they are preferred. */
static int32_t lead(const uint32_t *shingles, const int64_t *starts, const int64_t *sets, const uint8_t *stays, int64_t rows, double threshold,
                    const uint64_t *keys, int64_t bands, int64_t *leader, double *similar) {
    if (rows <= FEW) return lead_few(shingles, starts, sets, stays, rows, threshold, keys, bands, leader, similar), 1;
    Leaders l = {0};
    int32_t done = prepare(&l, shingles, starts, sets, rows);
    for (int64_t x = 0; done && x < rows; x++) {
        int64_t best = rows;
        if (!stays[x]) search(&l, x, threshold, keys, bands, &best, &similar[x]);
        leader[x] = best < rows ? best : -1;
        if (best == rows) done = enter(&l, x, threshold);
    }
    free_leaders(&l);
    return done;
}

/* The leader of each row, -1 for those that stay, and the similarity to it. Rows of a cluster stand together, the preferred one first;
 * `stays` marks those that go for none. With keys[rows][bands] a leader must share one of its bands. Returns 0 if memory ends. */
int32_t leaders(const uint32_t *shingles, const int64_t *starts, const int64_t *sets, const int64_t *clusters, const uint8_t *stays, int64_t rows,
                double threshold, const uint64_t *keys, int64_t bands, int64_t *leader, double *similar) {
    for (int64_t first = 0, stop; first < rows; first = stop) {
        for (stop = first + 1; stop < rows && clusters[stop] == clusters[first];) stop++;
        if (!lead(shingles, starts, sets + first, stays + first, stop - first, threshold, keys + first * bands, bands, leader + first, similar + first))
            return 0;
        for (int64_t i = first; i < stop; i++) leader[i] += leader[i] < 0 ? 0 : first;
    }
    return 1;
}

/* The first of those that stay with which each row shares a key of some band, -1 for those that stay. Returns 0 if memory ends. */
int32_t stars(const uint64_t *keys, int64_t bands, const uint8_t *stays, int64_t rows, int64_t *leader) {
    int64_t room = 64;
    while (room < 2 * rows * bands) room *= 2;
    int64_t *owner = malloc((size_t)room * 8), *places = malloc((size_t)bands * 8);
    if (!owner || !places) return free(owner), free(places), 0;
    for (int64_t i = 0; i < room; i++) owner[i] = -1;
    for (int64_t x = 0; x < rows; x++) {
        int64_t best = rows;
        for (int64_t b = 0; b < bands; b++) {
            uint64_t key = keys[x * bands + b];
            int64_t slot = (int64_t)(mix(key + (uint64_t)b * BASE) & (uint64_t)(room - 1));
            while (owner[slot] >= 0 && (owner[slot] % bands != b || keys[owner[slot]] != key)) slot = (slot + 1) & (room - 1);
            places[b] = slot;
            if (owner[slot] >= 0 && owner[slot] / bands < best) best = owner[slot] / bands;
        }
        leader[x] = best < rows && !stays[x] ? best : -1;
        if (leader[x] >= 0) continue;
        for (int64_t b = 0; b < bands; b++) {
            /* An earlier band of this row may have taken the free slot that was found. */
            int64_t slot = places[b];
            while (owner[slot] >= 0 && (owner[slot] % bands != b || keys[owner[slot]] != keys[x * bands + b])) slot = (slot + 1) & (room - 1);
            if (owner[slot] < 0) owner[slot] = x * bands + b;
        }
    }
    free(owner), free(places);
    return 1;
}
