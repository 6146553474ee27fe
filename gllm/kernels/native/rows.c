/* What is done to each row by itself: norms, rotation, where keys and values are put (in float32 or rounded to
 * bfloat16), masks. */
#include <omp.h>

#include "operators.h"
#include "tile.h"

#define FEW 65536 /* elements that one thread is done with before another has woken */

INLINE float mean_square(const float *x, long size) {
    vec first = {0}, second = {0};
    long d = 0;
    for (; d + 2 * LANES <= size; d += 2 * LANES) {
        const vec a = load(x + d), b = load(x + d + LANES);
        first += a * a;
        second += b * b;
    }
    float rest = 0;
    for (; d < size; d++) rest += x[d] * x[d];
    return (sum(first + second) + rest) / size;
}

INLINE void norm_row(const float *x, const float *weight, float eps, long size, float *y) {
    const float factor = 1.0f / __builtin_sqrtf(mean_square(x, size) + eps);
    for (long d = 0; d < size; d++) y[d] = x[d] * factor * weight[d];
}

/* y = norm(x); with `added`: x += added first. x, added, y: [rows, size]. */
void gllm_rms_norm(float *x, const float *added, const float *weight, float eps, long rows, long size, float *y) {
#pragma omp parallel for schedule(static) if (rows * size > FEW)
    for (long row = 0; row < rows; row++) {
        float *own = x + row * size;
        if (added)
            for (long d = 0; d < size; d++) own[d] += added[row * size + d];
        norm_row(own, weight, eps, size, y + row * size);
    }
}

/* As `norm_heads` in reference.py: qkv [tokens, heads + 2 * kv_heads, size]. */
void gllm_norm_heads(float *qkv, const float *q_weight, const float *k_weight, float eps, long tokens, long heads,
                     long kv_heads, long size) {
    const long all_heads = heads + 2 * kv_heads;
#pragma omp parallel for schedule(static) if (tokens * all_heads * size > FEW)
    for (long token = 0; token < tokens; token++)
        for (long head = 0; head < heads + kv_heads; head++) {
            float *x = qkv + (token * all_heads + head) * size;
            norm_row(x, head < heads ? q_weight : k_weight, eps, size, x);
        }
}

INLINE void put(int type, void *pages, long at, const float *from, long count) {
    if (type == FLOAT32)
        memcpy((float *)pages + at, from, 4 * count);
    else
        for (long i = 0; i < count; i++) ((uint16_t *)pages + at)[i] = rounded(from[i]);
}

/* As `rotary_write` in reference.py: half is that of the rotated dimensions, type that of the pages. */
void gllm_rotary_write(float *qkv, const float *cos, const float *sin, void *k_pages, void *v_pages, int type,
                       const int64_t *locations, long tokens, long heads, long kv_heads, long size, long half,
                       int is_interleaved) {
    const long all_heads = heads + 2 * kv_heads, kv_size = kv_heads * size;
#pragma omp parallel for schedule(static) if (tokens * all_heads * size > FEW)
    for (long token = 0; token < tokens; token++) {
        float *own = qkv + token * all_heads * size;
        const float *c = cos + token * half, *s = sin + token * half;
        for (long head = 0; head < heads + kv_heads; head++) {
            float *x = own + head * size;
            if (is_interleaved)
                for (long i = 0; i < half; i++) {
                    const float a = x[2 * i], b = x[2 * i + 1];
                    x[2 * i] = a * c[i] - b * s[i];
                    x[2 * i + 1] = b * c[i] + a * s[i];
                }
            else
                for (long i = 0; i < half; i++) {
                    const float a = x[i], b = x[half + i];
                    x[i] = a * c[i] - b * s[i];
                    x[half + i] = b * c[i] + a * s[i];
                }
        }
        put(type, k_pages, locations[token] * kv_size, own + heads * size, kv_size);
        put(type, v_pages, locations[token] * kv_size, own + (heads + kv_heads) * size, kv_size);
    }
}

/* y = silu(gate) * up; gate_up: [rows, 2 * size], y: [rows, size]. */
void gllm_silu_mul(const float *gate_up, long rows, long size, float *y) {
#pragma omp parallel for schedule(static) if (rows * size > FEW)
    for (long row = 0; row < rows; row++) {
        const float *gate = gate_up + row * 2 * size, *up = gate + size;
        float *to = y + row * size;
        long d = 0;
        for (; d + LANES <= size; d += LANES) {
            const vec g = load(gate + d);
            store(to + d, g / (1.0f + exponential(-g)) * load(up + d));
        }
        for (; d < size; d++) to[d] = gate[d] / (1.0f + exponential(all(-gate[d]))[0]) * up[d];
    }
}

INLINE void mask_word(float *x, uint32_t allowed, int count) {
    for (int i = 0; i < count; i++) x[i] = allowed >> i & 1 ? x[i] : -__builtin_inff();
}

/* As `apply_masks` in reference.py: a row of logits begins `stride` elements behind the one before. */
void gllm_apply_masks(float *logits, long stride, const int64_t *rows, const uint32_t *bits, long num_masked, long size) {
    const long whole = size / 32, words = (size + 31) / 32;
#pragma omp parallel for schedule(static) if (num_masked * size > FEW)
    for (long i = 0; i < num_masked; i++) {
        float *x = logits + rows[i] * stride;
        const uint32_t *allowed = bits + i * words;
        for (long w = 0; w < whole; w++) mask_word(x + 32 * w, allowed[w], 32);
        if (whole < words) mask_word(x + 32 * whole, allowed[whole], size % 32);
    }
}

/* The index of the largest of each row, the lowest of equals; of a row without numbers, 0. logits: [rows, size]. */
void gllm_greedy(const float *logits, long rows, long size, int64_t *tokens) {
#pragma omp parallel for schedule(dynamic, 1) if (rows * size > FEW)
    for (long row = 0; row < rows; row++) {
        const float *x = logits + row * size;
        vec most = all(-__builtin_inff());
        ivec place = {0}, now;
        for (int i = 0; i < LANES; i++) now[i] = i;
        long d = 0;
        for (; d + LANES <= size; d += LANES) {
            const vec value = load(x + d);
            const ivec is_more = value > most;
            most = choose(is_more, value, most);
            place = (now & is_more) | (place & ~is_more);
            now += LANES;
        }
        const float top = largest(most);
        long best = size;
        for (int i = 0; i < LANES; i++)
            if (most[i] == top && top > -__builtin_inff() && place[i] < best) best = place[i];
        float value = best < size ? top : -__builtin_inff();
        for (; d < size; d++)
            if (x[d] > value) {
                value = x[d];
                best = d;
            }
        tokens[row] = best < size ? best : 0;
    }
}
