/* Attention of prompts on the matrix unit (AMX): keys and values are split into parts when they are packed, queries and
 * weights when they are used. The arithmetic is float32's, as amx.h and linear_amx.c explain.
 *
 * Blocks of KEYS keys begin at the start of the sequence, and a weight of what a query does not see is 0: its result
 * depends neither on who shares its batch nor on how the prompt was cut.
 */
#include "attention_prompt.h"

#ifdef HAS_TILES
#include "amx_product.h"

#define KEYS 128 /* keys that are weighed at once */
#define PANELS (KEYS / PANEL)
#define PANEL_TILES (6 * TILE_BYTES) /* of 32 inputs and 32 outputs */
#define ROW_TILES (BLOCK_STEPS * 3 * TILE_BYTES) /* of a tile of rows, for a block of steps */

size_t tiles_size(long size, long context) { return panels_of(size) * panels_of(context) * PANEL_TILES / sizeof(float); }

/* Elements [at, at + LANES) of a place, of which `left` are there, if that is fewer. */
INLINE vec some(int type, const char *place, long at, long left) {
    if (left >= LANES) return stored(type, place, at, LANES);
    return left > 0 ? stored(type, place, at, left) : (vec){0};
}

/* A key's elements are a column of pairs. */
INLINE void put_key(vec first, vec second, char *to) {
    char parts[3 * 64] __attribute__((aligned(64)));
    const __m512i rows = _mm512_setr_epi32(0, 64, 128, 192, 256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960);
    split((__m512)first, (__m512)second, parts, 64);
    for (int part = 0; part < 3; part++)
        _mm512_i32scatter_epi32(to + part * TILE_BYTES, rows, _mm512_load_si512(parts + 64 * part), 1);
}

/* Two tokens' values are a row of pairs. */
INLINE void put_values(vec even, vec odd, char *to) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    const __m512 x = (__m512)even, y = (__m512)odd;
    split(_mm512_permutex2var_ps(x, low, y), _mm512_permutex2var_ps(x, high, y), to, TILE_BYTES);
}

INLINE void pack(const Attention *a, int type, const Chunk *chunk, long kv_head, long panel) {
    const long size = a->size, steps = panels_of(size), first = panel * PANEL, panels = panels_of(chunk->context);
    const long count = chunk->context - first < PANEL ? chunk->context - first : PANEL;
    char *keys = (char *)chunk->keys + (kv_head * panels + panel) * steps * PANEL_TILES;
    char *values = (char *)chunk->values + (kv_head * steps * panels + panel) * PANEL_TILES;
    const char *k_places[PANEL], *v_places[PANEL];
    locate(a, a->k_pages, chunk->row, first, count, k_places);
    locate(a, a->v_pages, chunk->row, first, count, v_places);
    if (count < PANEL) memset(keys, 0, steps * PANEL_TILES);
    for (long t = 0; t < count; t++)
        for (long d = 0; d < size; d += STEP) {
            const long at = kv_head * size + d, left = size - d;
            char *to = keys + d / STEP * PANEL_TILES + t / 16 * 3 * TILE_BYTES + t % 16 * 4;
            put_key(some(type, k_places[t], at, left), some(type, k_places[t], at + 16, left - 16), to);
        }
    for (long t = 0; t < PANEL; t += 2)
        for (long d = 0; d < steps * PANEL; d += 16) {
            const long at = kv_head * size + d, left = size - d;
            const vec even = t < count ? some(type, v_places[t], at, left) : (vec){0};
            const vec odd = t + 1 < count ? some(type, v_places[t + 1], at, left) : (vec){0};
            put_values(even, odd, values + d / PANEL * panels * PANEL_TILES + d / 16 % 2 * 3 * TILE_BYTES + t / 2 * 64);
        }
}

void pack_tiles(const Attention *a, const Chunk *chunk, long kv_head, long panel) {
    if (a->type == FLOAT32)
        pack(a, FLOAT32, chunk, kv_head, panel);
    else
        pack(a, BFLOAT16, chunk, kv_head, panel);
}

/* sums [32][PANEL] (+)= rows by a panel over `steps` steps. rows: blocks of [2][BLOCK_STEPS][3][16][32]. */
static void product(int tall, const char *rows, const char *panel, long steps, float *sums, int is_first) {
    Splitting none = {0};
    for (long s = 0; s < steps; s += BLOCK_STEPS) {
        const long some_steps = steps - s < BLOCK_STEPS ? steps - s : BLOCK_STEPS;
        const char *x = rows + s / BLOCK_STEPS * 2 * ROW_TILES, *w = panel + s * PANEL_TILES;
        if (tall)
            multiply_steps(FLOAT32, 3, 1, x, w, some_steps, sums, is_first && s == 0, s == 0, s + BLOCK_STEPS >= steps, &none);
        else
            multiply_steps(FLOAT32, 3, 0, x, w, some_steps, sums, is_first && s == 0, s == 0, s + BLOCK_STEPS >= steps, &none);
    }
}

/* Where step `step` of row i begins. */
INLINE char *row_of(char *rows, long i, long step) {
    return rows + (step / BLOCK_STEPS * 2 + i / 16) * ROW_TILES + step % BLOCK_STEPS * 3 * TILE_BYTES + i % 16 * 64;
}

/* The weights of row i from its scores with `visible` keys; as `soften`, but they become parts of rows. */
INLINE float weigh(const float *scores, long i, long visible, long panels, char *weights, float *top, float *total) {
    vec x[2 * PANELS], most = all(-INFINITY), added = {0};
#pragma GCC unroll 8
    for (long n = 0; n < 2 * panels; n++) {
        const __mmask16 seen = first_lanes(visible - 16 * n);
        const float *from = scores + (n / 2 * TALL + i) * PANEL + n % 2 * 16;
        x[n] = (vec)_mm512_mask_loadu_ps((__m512)all(-INFINITY), seen, from);
        most = larger(x[n], most);
    }
    const float found = largest(most), now = found > *top ? found : *top;
    const float factor = exponential(all(*top - now))[0];
#pragma GCC unroll 4
    for (long n = 0; n < 2 * panels; n += 2) {
        const vec first = exponential(x[n] - now), second = exponential(x[n + 1] - now);
        added += first;
        added += second;
        split((__m512)first, (__m512)second, row_of(weights, i, n / 2), TILE_BYTES);
    }
    *top = now;
    *total = *total * factor + sum(added);
    return factor;
}

void attend_tiles(const Attention *a, const Chunk *chunk, long head, long query, long count) {
    const long size = a->size, kv_head = head / (a->heads / a->kv_heads), steps = panels_of(size);
    const long before = a->before[chunk->row], token = a->starts[chunk->row] + query, panels = panels_of(chunk->context);
    const long rows = count - query < TALL ? count - query : TALL, tall = rows > 16;
    const char *keys = (char *)chunk->keys + kv_head * panels * steps * PANEL_TILES;
    const char *values = (char *)chunk->values + kv_head * steps * panels * PANEL_TILES;
    const long q_bytes = (steps + BLOCK_STEPS - 1) / BLOCK_STEPS * 2 * ROW_TILES;
    char q[q_bytes] __attribute__((aligned(64)));
    char weights[PANELS / BLOCK_STEPS * 2 * ROW_TILES] __attribute__((aligned(64)));
    float scores[PANELS * TALL * PANEL] __attribute__((aligned(64)));
    float out[steps * TALL * PANEL] __attribute__((aligned(64))); /* [steps][TALL][PANEL] */
    float top[TALL], total[TALL];
    memset(q, 0, q_bytes);
    memset(weights, 0, sizeof weights);
    for (long i = 0; i < rows; i++) {
        const char *from = (const char *)(a->q + (token + i) * a->q_step + head * size);
        for (long d = 0; d < size; d += STEP) {
            const vec first = some(FLOAT32, from, d, size - d) * a->scale;
            const vec second = some(FLOAT32, from, d + 16, size - d - 16) * a->scale;
            split((__m512)first, (__m512)second, row_of(q, i, d / STEP), TILE_BYTES);
        }
        top[i] = -INFINITY;
        total[i] = 0;
    }
    const long reach = before + query + rows; /* keys that the last query sees */
    for (long first = 0; first < reach; first += KEYS) {
        const long tokens = reach - first < KEYS ? reach - first : KEYS, block_panels = panels_of(tokens);
        for (long p = 0; p < block_panels; p++)
            product(tall, q, keys + (first / PANEL + p) * steps * PANEL_TILES, steps, scores + p * TALL * PANEL, 1);
        for (long i = 0; i < rows; i++) {
            const long seen = before + query + i + 1 - first;
            if (seen <= 0) {
                for (long n = 0; n < block_panels; n++)
                    for (int part = 0; part < 3; part++) memset(row_of(weights, i, n) + part * TILE_BYTES, 0, 64);
                continue;
            }
            const long visible = seen < tokens ? seen : tokens;
            const float factor = block_panels == PANELS
                                     ? weigh(scores, i, visible, PANELS, weights, top + i, total + i)
                                     : weigh(scores, i, visible, block_panels, weights, top + i, total + i);
            if (first && factor != 1)
                for (long d = 0; d < steps * PANEL; d += LANES) {
                    float *at = out + (d / PANEL * TALL + i) * PANEL + d % PANEL;
                    store(at, load(at) * factor);
                }
        }
        for (long p = 0; p < steps; p++)
            product(tall, weights, values + (p * panels + first / PANEL) * PANEL_TILES, block_panels, out + p * TALL * PANEL,
                    first == 0);
    }
    for (long i = 0; i < rows; i++)
        for (long d = 0; d < size; d += LANES) {
            const vec x = load(out + (d / PANEL * TALL + i) * PANEL + d % PANEL) / total[i];
            float *to = a->out + ((token + i) * a->heads + head) * size + d;
            if (size - d >= LANES)
                store(to, x);
            else
                memcpy(to, &x, 4 * (size - d));
        }
}

void begin_tiles(void) { configure(TILE_ROWS); }

void end_tiles(void) { _tile_release(); }

#endif
