/* Causal attention of ragged queries over paged float32 keys and values, without repeating a key.
 *
 * A row of one query goes over its pages once for each key head, with all query heads that share it. The keys
 * and values of a row of several queries are packed once for all of its queries, and tiles of ROWS queries
 * go over blocks of KEYS keys. Blocks begin at the start of the sequence, so that a query's result depends
 * neither on who shares its batch nor on how the prompt was cut.
 *
 * Source: online softmax, Milakov and Gimelshein 2018; blocks of keys, Dao et al. 2022.
 */
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "tile.h"

#define KEYS 128 /* keys that are weighed at once */
#define AHEAD 8  /* tokens that memory is asked for before they are needed */
#define FEW (1L << 18) /* products that one thread is done with before another has woken */
#define GATHERED 4096 /* tokens whose keys and values are packed at once, if one row has no more */
#define WIDE 4   /* vectors of a head that stay in registers */
#if LANES == 16
#define SHARED 4 /* query heads that stay in registers beside them */
#else
#define SHARED 2
#endif

typedef struct {
    const float *q; /* [tokens, heads, size], a token every q_step */
    long q_step;
    const float *k_pages, *v_pages; /* [pages, page_size, kv_heads, size] */
    long page_size, kv_heads, heads, size;
    const int32_t *table; /* [rows, table_step] */
    long table_step;
    const int32_t *before, *starts;
    long rows;
    float scale;
    float *out; /* [tokens, heads, size] */
} Attention;

INLINE vec load_part(const float *from, long count) {
    vec x = {0};
    memcpy(&x, from, 4 * count);
    return x;
}

INLINE long offset_of(const Attention *a, const int32_t *pages, long token) {
    return (pages[token / a->page_size] * a->page_size + token % a->page_size) * a->kv_heads * a->size;
}

/* exp(scores - their new maximum) in place, of `count` scores with room for a whole vector; the sum so far
 * and the maximum so far follow. Returns the factor for what was summed before. */
INLINE float soften(float *scores, long count, float *top, float *total) {
    const long whole = (count + LANES - 1) / LANES * LANES;
    for (long i = count; i < whole; i++) scores[i] = -INFINITY;
    vec most = load(scores);
    for (long i = LANES; i < whole; i += LANES) most = larger(most, load(scores + i));
    const float found = largest(most), now = found > *top ? found : *top;
    const float factor = exponential(all(*top - now))[0];
    vec added = {0};
    for (long i = 0; i < whole; i += LANES) {
        const vec weight = exponential(load(scores + i) - now);
        store(scores + i, weight);
        added += weight;
    }
    *top = now;
    *total = *total * factor + sum(added);
    return factor;
}

/* ---- rows of one query ---- */

/* scores[h][t] of `count` query heads with keys [first, first + tokens). q: [count][padded size]. Meanwhile asks
 * memory for `asked` floats of each key, of which those behind this head's are the next heads'. */
INLINE void score(const Attention *a, const int32_t *pages, long kv_head, long first, long tokens, const float *q,
                  long padded, long asked, int count, float *scores) {
    const long size = a->size, whole = size / LANES * LANES;
    for (long t = 0; t < tokens; t++) {
        const float *key = a->k_pages + offset_of(a, pages, first + t) + kv_head * size;
        const long later = t + AHEAD < tokens ? t + AHEAD : tokens - 1;
        const char *ask = (const char *)(a->k_pages + offset_of(a, pages, first + later) + kv_head * size);
        for (long i = 0; i < 4 * asked; i += 64) __builtin_prefetch(ask + i);
        vec sums[SHARED];
#pragma GCC unroll 4
        for (int h = 0; h < count; h++) sums[h] = (vec){0};
        for (long d = 0; d < whole; d += LANES) {
            const vec k = load(key + d);
#pragma GCC unroll 4
            for (int h = 0; h < count; h++) sums[h] += k * load(q + h * padded + d);
        }
        if (whole < size) {
            const vec k = load_part(key + whole, size - whole);
#pragma GCC unroll 4
            for (int h = 0; h < count; h++) sums[h] += k * load(q + h * padded + whole);
        }
#pragma GCC unroll 4
        for (int h = 0; h < count; h++) scores[h * KEYS + t] = sum(sums[h]);
    }
}

/* out[h][d] = out[h][d] * factors[h] + sum over t of weights[h][t] * value[t][d], for `wide` vectors from `at`. */
INLINE void gather(const Attention *a, const int32_t *pages, long kv_head, long first, long tokens, long at,
                   long asked, const float *weights, const float *factors, int count, int wide, float *out) {
    vec sums[SHARED][WIDE];
#pragma GCC unroll 4
    for (int h = 0; h < count; h++)
#pragma GCC unroll 4
        for (int i = 0; i < wide; i++) sums[h][i] = load(out + h * a->size + at + i * LANES) * factors[h];
    for (long t = 0; t < tokens; t++) {
        const float *value = a->v_pages + offset_of(a, pages, first + t) + kv_head * a->size + at;
        const long later = t + AHEAD < tokens ? t + AHEAD : tokens - 1;
        const char *ask = (const char *)(a->v_pages + offset_of(a, pages, first + later) + kv_head * a->size + at);
        for (long i = 0; i < 4 * asked; i += 64) __builtin_prefetch(ask + i);
#pragma GCC unroll 4
        for (int i = 0; i < wide; i++) {
            const vec v = load(value + i * LANES);
#pragma GCC unroll 4
            for (int h = 0; h < count; h++) sums[h][i] += v * weights[h * KEYS + t];
        }
    }
#pragma GCC unroll 4
    for (int h = 0; h < count; h++)
#pragma GCC unroll 4
        for (int i = 0; i < wide; i++) store(out + h * a->size + at + i * LANES, sums[h][i]);
}

/* What the query heads of one row know so far, each array by head. */
typedef struct {
    float *q; /* [heads][padded size], scaled */
    float *top, *total;
} Sofar;

INLINE void decode_block(const Attention *a, const Sofar *sofar, long row, long kv_head, long head, int count,
                         long first, long tokens, long asked) {
    const long size = a->size, padded = (size + LANES - 1) / LANES * LANES;
    const int32_t *pages = a->table + row * a->table_step;
    float scores[SHARED * KEYS];
    float factors[SHARED];
    float *out = a->out + ((long)a->starts[row] * a->heads + head) * size;
    score(a, pages, kv_head, first, tokens, sofar->q + head * padded, padded, asked, count, scores);
    for (int h = 0; h < count; h++)
        factors[h] = soften(scores + h * KEYS, tokens, sofar->top + head + h, sofar->total + head + h);
    long d = 0;
    for (; d + WIDE * LANES <= size; d += WIDE * LANES)
        gather(a, pages, kv_head, first, tokens, d, d ? 0 : asked, scores, factors, count, WIDE, out);
    for (; d + LANES <= size; d += LANES) gather(a, pages, kv_head, first, tokens, d, d ? 0 : asked, scores, factors, count, 1, out);
    for (; d < size; d++)
        for (int h = 0; h < count; h++) {
            float x = out[h * size + d] * factors[h];
            for (long t = 0; t < tokens; t++)
                x += scores[h * KEYS + t] * a->v_pages[offset_of(a, pages, first + t) + kv_head * size + d];
            out[h * size + d] = x;
        }
}

/* Key heads [kv_start, kv_end) of a row, block by block: pages are read as they lie in memory. */
static void decode(const Attention *a, long row, long kv_start, long kv_end) {
    const long shared = a->heads / a->kv_heads, size = a->size, padded = (size + LANES - 1) / LANES * LANES;
    const long token = a->starts[row], context = a->before[row] + 1;
    float q[a->heads * padded], top[a->heads], total[a->heads];
    const Sofar sofar = {q, top, total};
    float *out = a->out + token * a->heads * size;
    memset(out + kv_start * shared * size, 0, 4 * (kv_end - kv_start) * shared * size);
    for (long head = kv_start * shared; head < kv_end * shared; head++) {
        const float *from = a->q + token * a->q_step + head * size;
        for (long d = 0; d < size; d++) q[head * padded + d] = from[d] * a->scale;
        for (long d = size; d < padded; d++) q[head * padded + d] = 0;
        top[head] = -INFINITY;
        total[head] = 0;
    }
    for (long first = 0; first < context; first += KEYS) {
        const long tokens = context - first < KEYS ? context - first : KEYS;
        for (long kv_head = kv_start; kv_head < kv_end; kv_head++)
            for (long h = 0; h < shared; h += SHARED) {
                const long head = kv_head * shared + h;
                const long asked = kv_head == kv_start && h == 0 ? (kv_end - kv_start) * size : 0;
                switch (shared - h) {
                case 1: decode_block(a, &sofar, row, kv_head, head, 1, first, tokens, asked); break;
                case 2: decode_block(a, &sofar, row, kv_head, head, 2, first, tokens, asked); break;
#if SHARED == 4
                case 3: decode_block(a, &sofar, row, kv_head, head, 3, first, tokens, asked); break;
#endif
                default: decode_block(a, &sofar, row, kv_head, head, SHARED, first, tokens, asked);
                }
            }
    }
    for (long head = kv_start * shared; head < kv_end * shared; head++)
        for (long d = 0; d < size; d++) out[head * size + d] /= total[head];
}

/* ---- rows of several queries ---- */

typedef struct { /* a row, and where its packed keys and values begin */
    long row, context;
    size_t at;     /* of the keys, in the workspace */
    float *keys;   /* [kv_heads][panels of tokens][size][PANEL] */
    float *values; /* [kv_heads][panels of size][tokens][PANEL] */
    long first_item;
} Chunk;

INLINE long panels_of(long count) { return (count + PANEL - 1) / PANEL; }

static void pack_keys(const Attention *a, const Chunk *chunk, long kv_head, long panel) {
    const int32_t *pages = a->table + chunk->row * a->table_step;
    const long size = a->size, first = panel * PANEL, token_panels = panels_of(chunk->context);
    const long count = chunk->context - first < PANEL ? chunk->context - first : PANEL;
    float *keys = chunk->keys + (kv_head * token_panels + panel) * size * PANEL;
    const long value_panels = panels_of(size);
    if (count < PANEL) memset(keys, 0, 4 * size * PANEL);
    for (long t = 0; t < count; t++) {
        const long at = offset_of(a, pages, first + t) + kv_head * size;
        const float *key = a->k_pages + at, *value = a->v_pages + at;
        for (long d = 0; d < size; d++) keys[d * PANEL + t] = key[d];
        for (long p = 0; p < value_panels; p++) {
            float *to = chunk->values + ((kv_head * value_panels + p) * chunk->context + first + t) * PANEL;
            const long left = size - p * PANEL;
            if (left < PANEL) memset(to, 0, 4 * PANEL);
            memcpy(to, value + p * PANEL, 4 * (left < PANEL ? left : PANEL));
        }
    }
}

/* Query heads `head` of ROWS queries from `query` on, of the row's `count`. */
static void attend_tile(const Attention *a, const Chunk *chunk, long head, long query, long count) {
    const long size = a->size, kv_head = head / (a->heads / a->kv_heads), value_panels = panels_of(size);
    const long padded = value_panels * PANEL, before = a->before[chunk->row], token = a->starts[chunk->row] + query;
    const long rows = count - query < ROWS ? count - query : ROWS;
    const float *keys = chunk->keys + kv_head * panels_of(chunk->context) * size * PANEL;
    const float *values = chunk->values + kv_head * value_panels * chunk->context * PANEL;
    float q[size * ROWS];
    float scores[ROWS * KEYS] __attribute__((aligned(64)));
    float out[ROWS * padded] __attribute__((aligned(64)));
    float top[ROWS], total[ROWS];
    memset(q, 0, sizeof q);
    for (long i = 0; i < rows; i++)
        for (long d = 0; d < size; d++)
            q[d * ROWS + i] = a->q[(token + i) * a->q_step + head * size + d] * a->scale;
    for (long i = 0; i < ROWS; i++) {
        top[i] = -INFINITY;
        total[i] = 0;
    }
    const long reach = before + query + rows; /* keys that the last query sees */
    for (long first = 0; first < reach; first += KEYS) {
        const long tokens = reach - first < KEYS ? reach - first : KEYS;
        for (long p = 0; p < panels_of(tokens); p++)
            tile(FLOAT32, ROWS, size, q, 1, ROWS, keys + (first / PANEL + p) * size * PANEL, scores + p * PANEL,
                 KEYS, 1, NULL, 64, 0);
        for (long i = 0; i < ROWS; i++) {
            const long seen = before + query + i + 1 - first;
            float *row = scores + i * KEYS;
            if (i >= rows || seen <= 0) {
                memset(row, 0, 4 * KEYS);
                continue;
            }
            const long visible = seen < tokens ? seen : tokens;
            const float factor = soften(row, visible, top + i, total + i);
            for (long t = (visible + LANES - 1) / LANES * LANES; t < tokens; t++) row[t] = 0;
            if (first && factor != 1)
                for (long d = 0; d < padded; d += LANES) store(out + i * padded + d, load(out + i * padded + d) * factor);
        }
        for (long p = 0; p < value_panels; p++)
            tile(FLOAT32, ROWS, tokens, scores, KEYS, 1, values + (p * chunk->context + first) * PANEL,
                 out + p * PANEL, padded, first == 0, NULL, 64, 0);
    }
    for (long i = 0; i < rows; i++)
        for (long d = 0; d < size; d++)
            a->out[((token + i) * a->heads + head) * size + d] = out[i * padded + d] / total[i];
}

/* The chunk that item number `item` belongs to. */
INLINE const Chunk *chunk_of(const Chunk *chunks, long count, long item) {
    long low = 0, high = count;
    while (high - low > 1) {
        const long middle = (low + high) / 2;
        if (chunks[middle].first_item <= item)
            low = middle;
        else
            high = middle;
    }
    return chunks + low;
}

static float *packed;
static size_t packed_floats;

/* Rows [*at, ...) of several queries, as many as fit the workspace; *at moves on. Returns 1 if memory is short. */
static int attend_chunks(const Attention *a, const long *long_rows, long num_rows, long *at, Chunk *chunks) {
    const long kv_size = a->kv_heads * a->size, padded = panels_of(a->size) * PANEL * a->kv_heads;
    long count = 0, tokens = 0, items = 0;
    long work = 0;
    size_t floats = 0;
    while (*at < num_rows) {
        const long row = long_rows[*at], length = a->starts[row + 1] - a->starts[row];
        const long context = a->before[row] + length;
        if (count && tokens + context > GATHERED) break;
        chunks[count] = (Chunk){row, context, floats, NULL, NULL, items};
        floats += panels_of(context) * PANEL * kv_size + context * padded;
        tokens += context;
        work += length * context * a->heads * a->size;
        items += (length + ROWS - 1) / ROWS * a->heads;
        count++;
        ++*at;
    }
    if (floats > packed_floats) {
        free(packed);
        packed = aligned_alloc(64, (4 * floats + 63) / 64 * 64);
        packed_floats = packed ? floats : 0;
        if (!packed) return 1;
    }
    for (long c = 0; c < count; c++) {
        chunks[c].keys = packed + chunks[c].at;
        chunks[c].values = chunks[c].keys + panels_of(chunks[c].context) * PANEL * kv_size;
    }
#pragma omp parallel if (work > FEW)
    {
        for (long c = 0; c < count; c++) {
            const long packs = panels_of(chunks[c].context) * a->kv_heads;
#pragma omp for schedule(static) nowait
            for (long i = 0; i < packs; i++) pack_keys(a, chunks + c, i % a->kv_heads, i / a->kv_heads);
        }
#pragma omp barrier
#pragma omp for schedule(dynamic, 1)
        for (long n = 0; n < items; n++) {
            const long item = items - 1 - n; /* the longest first */
            const Chunk *chunk = chunk_of(chunks, count, item);
            const long inside = item - chunk->first_item, length = a->starts[chunk->row + 1] - a->starts[chunk->row];
            attend_tile(a, chunk, inside % a->heads, inside / a->heads * ROWS, length);
        }
    }
    return 0;
}

/* As `paged_attention` in reference.py; all tables int32. Returns 1 if memory is short. One caller at a time. */
int gllm_attention(const float *q, long q_step, const float *k_pages, const float *v_pages, long page_size,
                   long kv_heads, long heads, long size, const int32_t *table, long table_step,
                   const int32_t *before, const int32_t *starts, long rows, float scale, float *out) {
    const Attention a = {q,     q_step,     k_pages, v_pages, page_size, kv_heads, heads, size,
                         table, table_step, before,  starts,  rows,      scale,    out};
    long *order = malloc(sizeof(long) * (rows + 1));
    if (!order) return 1;
    long short_rows = 0, long_rows = 0, contexts = 0;
    for (long row = 0; row < rows; row++) {
        if (starts[row + 1] - starts[row] == 1) {
            order[short_rows++] = row;
            contexts += before[row] + 1;
        } else
            order[rows - ++long_rows] = row;
    }
    if (short_rows) {
        /* Whole rows where there are enough of them, else single key heads: the result is the same. */
        const long parts = short_rows >= 4 * omp_get_max_threads() ? 1 : kv_heads, each = kv_heads / parts;
#pragma omp parallel for schedule(dynamic, 1) if (contexts * heads * size > FEW)
        for (long item = 0; item < short_rows * parts; item++) {
            const long kv_start = item % parts * each;
            decode(&a, order[item / parts], kv_start, kv_start + each);
        }
    }
    int failed = 0;
    if (long_rows) {
        Chunk *chunks = malloc(sizeof(Chunk) * long_rows);
        long at = 0;
        failed = !chunks;
        while (!failed && at < long_rows) failed = attend_chunks(&a, order + short_rows, long_rows, &at, chunks);
        free(chunks);
    }
    free(order);
    return failed;
}
