/* Causal attention of ragged queries over paged keys and values, without repeating a key. */
#include "attention.h"
#include "operators.h"
#include "workspace.h"

float *workspace(size_t floats) {
    static Workspace space;
    return reserve(&space, sizeof(float) * floats);
}

/* As `paged_attention` in reference.py; all tables int32. Returns 1 if memory is short. One caller at a time. */
int gllm_attention(const float *q, long q_step, const void *k_pages, const void *v_pages, int type, long page_size,
                   long kv_heads, long heads, long size, const int32_t *table, long table_step,
                   const int32_t *before, const int32_t *starts, long rows, float scale, float *out) {
    const Attention a = {q,     q_step,     k_pages, v_pages, type, page_size, kv_heads, heads, size,
                         table, table_step, before,  starts,  rows, scale,     out};
    long *order = malloc(sizeof(long) * (rows + 1));
    if (!order) return 1;
    long decodes = 0, prompts = 0;
    for (long row = 0; row < rows; row++)
        if (starts[row + 1] - starts[row] == 1)
            order[decodes++] = row;
        else
            order[rows - ++prompts] = row;
    int failed = decodes && attend_decodes(&a, order, decodes);
    if (prompts && !failed) failed = attend_prompts(&a, order + decodes, prompts);
    free(order);
    return failed;
}
