/* Memory that operators work in: it stays, and grows when more is asked for. */
#ifndef GLLM_WORKSPACE_H
#define GLLM_WORKSPACE_H

#include <stdlib.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#define LARGE_PAGE (2UL << 20)

typedef struct {
    void *memory;
    size_t size;
} Workspace;

/* At least `size` bytes, in large pages where the system has them; none if memory is short. */
static inline void *reserve(Workspace *space, size_t size) {
    if (size > space->size) {
        const size_t rounded = (size + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
        free(space->memory);
        space->memory = aligned_alloc(LARGE_PAGE, rounded);
        space->size = space->memory ? rounded : 0;
#ifdef MADV_HUGEPAGE
        if (space->memory) madvise(space->memory, rounded, MADV_HUGEPAGE);
#endif
    }
    return space->memory;
}

#endif
