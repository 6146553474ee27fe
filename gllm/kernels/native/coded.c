/* Codes weights: the format stands in coded.h. Once a weight, when it is loaded. */
#include "coded.h"

#ifdef HAS_TILES
#include <string.h>

/* The numbers of a block as rows of tiles, [pair of inputs][half of the panel]. */
typedef struct {
    __m512i upper[STEP / 2][2], lower[STEP / 2][2]; /* halves of each number; the lower ones of float32 only */
} Block;

typedef struct {
    const char *rows; /* [out, in] */
    int type, is_gated;
    long out, in;
} Source;

/* A block's part of one output, zeros beyond the matrix. */
static void halves_of(const Source *source, long row, long k, int is_there, __m512i *upper, __m512i *lower) {
    const long left = is_there ? source->in - k : 0, at = row * source->in + k;
    if (source->type == FLOAT32) {
        const float *from = (const float *)source->rows + at;
        const __m512i a = _mm512_maskz_loadu_epi32(first_lanes(left), from);
        const __m512i b = _mm512_maskz_loadu_epi32(first_lanes(left - 16), from + 16);
        *upper = high_of((__m512)a, (__m512)b);
        *lower = high_of((__m512)_mm512_slli_epi32(a, 16), (__m512)_mm512_slli_epi32(b, 16));
    } else
        *upper = _mm512_maskz_loadu_epi16(left >= STEP ? ~0u : left > 0 ? (1u << left) - 1 : 0, (const uint16_t *)source->rows + at);
}

static void gather(const Source *source, long panel, long step, Block *block) {
    const long rows_of_half = source->is_gated ? source->out / 2 : source->out;
    for (int half = 0; half < 2; half++)
        for (int lane = 0; lane < 16; lane++) {
            const long row = source->is_gated ? panel * 16 + lane : panel * PANEL + half * 16 + lane;
            uint32_t upper[16] __attribute__((aligned(64))), lower[16] __attribute__((aligned(64))); /* a pair each */
            halves_of(source, row + (source->is_gated ? half * rows_of_half : 0), step * STEP, row < rows_of_half,
                      (__m512i *)upper, (__m512i *)lower);
            for (int pair = 0; pair < STEP / 2; pair++) {
                ((uint32_t *)&block->upper[pair][half])[lane] = upper[pair];
                if (source->type == FLOAT32) ((uint32_t *)&block->lower[pair][half])[lane] = lower[pair];
            }
        }
}

/* The lower or the upper bytes of two rows, where interleaving finds them. */
INLINE __m512i lower_bytes(const __m512i rows[2]) {
    const __m512i byte = _mm512_set1_epi16(0xff);
    return _mm512_packus_epi16(rows[0] & byte, rows[1] & byte);
}
INLINE __m512i upper_bytes(const __m512i rows[2]) {
    return _mm512_packus_epi16(_mm512_srli_epi16(rows[0], 8), _mm512_srli_epi16(rows[1], 8));
}

/* The different upper bytes of a block into `table`, in order, and the place of each into `codes`; returns their number. */
static int tabulate(const Block *block, uint8_t table[TABLE], uint8_t codes[256]) {
    uint8_t seen[256] = {0};
    int count = 0;
    for (int pair = 0; pair < STEP / 2; pair++) {
        uint8_t bytes[LINE] __attribute__((aligned(64)));
        _mm512_store_si512(bytes, upper_bytes(block->upper[pair]));
        for (int i = 0; i < LINE; i++) seen[bytes[i]] = 1;
    }
    for (int byte = 0; byte < 256; byte++)
        if (seen[byte]) {
            if (count < TABLE) table[count] = byte;
            codes[byte] = count++;
        }
    return count;
}

INLINE __m512i look_up(const uint8_t codes[256], __m512i bytes) {
    const __m512i *from = (const __m512i *)codes;
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(bytes), _mm512_permutex2var_epi8(from[0], bytes, from[1]),
                                  _mm512_permutex2var_epi8(from[2], bytes, from[3]));
}

static void write(int type, int is_plain, const Block *block, const uint8_t codes[256], char *to) {
    for (int group = 0; group < GROUPS; group++, to += LINE * piece_lines(type, is_plain)) {
        const __m512i(*upper)[2] = &block->upper[2 * group], (*lower)[2] = &block->lower[2 * group];
        const __m512i bytes[2] = {upper_bytes(upper[0]), upper_bytes(upper[1])};
        __m512i *line = (__m512i *)to;
        if (is_plain) {
            *line++ = bytes[0];
            *line++ = bytes[1];
        } else
            *line++ = look_up(codes, bytes[0]) | _mm512_slli_epi16(look_up(codes, bytes[1]), 4);
        *line++ = lower_bytes(upper[0]);
        *line++ = lower_bytes(upper[1]);
        if (type == FLOAT32) memcpy(line, lower, 4 * LINE);
    }
}

/* rows: [out, in] of float32 or bfloat16; starts: [blocks + 1]. Without `blocks` and `tables` sets `starts` alone, whose
 * last is the number of lines that the blocks take; then, given `starts`, both others. */
void gllm_code_weight(const void *rows, int type, long out, long in, int is_gated, uint32_t *starts, uint8_t *tables,
                      char *blocks) {
    const long panels = (out + PANEL - 1) / PANEL, steps = (in + STEP - 1) / STEP;
    const Source source = {rows, type, is_gated, out, in};
    if (!blocks) starts[0] = 0;
#pragma omp parallel for schedule(static)
    for (long n = 0; n < panels * steps; n++) {
        Block block;
        uint8_t codes[256] __attribute__((aligned(64))), table[TABLE] = {0};
        gather(&source, n / steps, n % steps, &block);
        const int is_plain = tabulate(&block, table, codes) > TABLE;
        if (!blocks)
            starts[n + 1] = GROUPS * piece_lines(type, is_plain);
        else {
            memcpy(tables + n * TABLE, table, TABLE);
            write(type, is_plain, &block, codes, blocks + (long)starts[n] * LINE);
        }
    }
    for (long n = 0; !blocks && n < panels * steps; n++) starts[n + 1] += starts[n];
}

#else

void gllm_code_weight(const void *rows, int type, long out, long in, int is_gated, void *starts, void *tables, void *blocks) {}

#endif
