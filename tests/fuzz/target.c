/* The fuzz target: a plan and a script for the kernel of kernel.c, or a message that the caller receives.
 *
 * With clang it is libFuzzer's, and mutates whole operations of a plan, whose lengths stay right. With gcc `main` runs
 * the files that it is given, once each. */
#include "kernel.h"

#include <stdlib.h>
#include <string.h>

#include "plan.h"

void receive_message(const uint8_t *data, size_t size); /* receive.c */

#define HEADER sizeof(struct ed_plan_header)

static int is_plan(const uint8_t *data, size_t size)
{
    uint32_t magic = 0;
    if (size >= sizeof magic)
        memcpy(&magic, data, sizeof magic);
    return magic == ED_PLAN_MAGIC;
}

/* What the header says belongs to the plan; the script follows. */
static size_t plan_size(const uint8_t *data, size_t size)
{
    struct ed_plan_header header;
    if (size < HEADER)
        return size;
    memcpy(&header, data, HEADER);
    return header.size < size ? header.size : size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (is_plan(data, size)) {
        size_t length = plan_size(data, size);
        run_launcher(data, length, data + length, size - length);
    } else
        receive_message(data, size);
    return 0;
}

#ifdef __clang__

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

struct piece {
    size_t at, size; /* of an operation, its head included */
};

#define PIECES 512
#define HEAD 8

static size_t split(const uint8_t *data, size_t size, struct piece *pieces)
{
    size_t count = 0;
    for (size_t at = HEADER; at + HEAD <= size && count < PIECES; count++) {
        uint32_t length;
        memcpy(&length, data + at + 4, 4);
        if (length > size - at - HEAD)
            break;
        pieces[count] = (struct piece){at, HEAD + length};
        at += HEAD + length;
    }
    return count;
}

/* Put `size` bytes in the place of a piece, or before it, if there is room. */
static size_t replace(uint8_t *data, size_t total, size_t max, size_t at, size_t old, const uint8_t *with, size_t size)
{
    if (total - old + size > max)
        return total;
    memmove(data + at + size, data + at + old, total - at - old);
    memcpy(data + at, with, size);
    return total - old + size;
}

static size_t mutate_body(uint8_t *data, size_t total, size_t max, struct piece piece)
{
    uint8_t body[4096];
    if (piece.size > sizeof body / 2)
        return total;
    memcpy(body, data + piece.at, piece.size);
    size_t size = HEAD + LLVMFuzzerMutate(body + HEAD, piece.size - HEAD, sizeof body - HEAD);
    uint32_t length = (uint32_t)(size - HEAD);
    memcpy(body + 4, &length, 4);
    return replace(data, total, max, piece.at, piece.size, body, size);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned int seed)
{
    struct piece pieces[PIECES];
    srand(seed);
    if (!is_plan(data, size) || size < HEADER || rand() % 8 == 0)
        return LLVMFuzzerMutate(data, size, max);
    size_t length = plan_size(data, size), count = split(data, length, pieces);
    if (!count || rand() % 3 == 0) /* the script */
        return length + (max > length ? LLVMFuzzerMutate(data + length, size - length, max - length) : size - length);
    struct piece one = pieces[(size_t)rand() % count], other = pieces[(size_t)rand() % count];
    uint8_t copy[4096];
    size_t after = size;
    switch (rand() % 5) {
    case 0: /* leave one out */
        after = replace(data, size, max, one.at, one.size, copy, 0);
        break;
    case 1: /* one more, elsewhere */
        if (one.size <= sizeof copy) {
            memcpy(copy, data + one.at, one.size);
            after = replace(data, size, max, other.at, 0, copy, one.size);
        }
        break;
    case 2: /* another code for the same arguments */
        data[one.at] = (uint8_t)rand();
        break;
    default:
        after = mutate_body(data, size, max, one);
    }
    struct ed_plan_header header;
    memcpy(&header, data, HEADER);
    header.size = (uint32_t)(length + after - size);
    header.count = (uint32_t)split(data, header.size, pieces);
    memcpy(data, &header, HEADER);
    return after;
}

#else

#include <stdio.h>

static uint8_t *read_all(const char *name, size_t *size)
{
    FILE *file = fopen(name, "rb");
    uint8_t *data = NULL;
    if (file && !fseek(file, 0, SEEK_END)) {
        *size = (size_t)ftell(file);
        data = malloc(*size + 1);
        rewind(file);
        if (data && fread(data, 1, *size, file) != *size)
            data = NULL;
        fclose(file);
    }
    if (!data) {
        perror(name);
        exit(1);
    }
    return data;
}

/* The plan with each of its system calls failing in turn, in each of these ways, or going well in another. */
static unsigned long fail_each_call(const uint8_t *plan, size_t size, const char *name)
{
    static const uint8_t ways[] = {1, 2, 4, 5, 9, 11, 12, 13, 16, 17, 20, 22, 24, 28, 30, 40, 95, 200};
    unsigned long faults = 0;
    run_launcher(plan, size, NULL, 0);
    unsigned int calls = calls_made();
    for (unsigned int call = 0; call < calls && call < 256; call++)
        for (size_t way = 0; way < sizeof ways; way++, faults++) {
            uint8_t script[] = {(uint8_t)call, ways[way], 255, 3, 1, 2, 3};
            fprintf(stderr, "\r%s: call %u, %u ", name, call, ways[way]);
            run_launcher(plan, size, script, sizeof script);
        }
    return faults;
}

/* Files to run once each; after "--each-call" plans, to be run with every call failing. */
int main(int count, char **names)
{
    int each_call = 0;
    unsigned long runs = 0;
    for (int i = 1; i < count; i++) {
        size_t size;
        if (!strcmp(names[i], "--each-call")) {
            each_call = 1;
            continue;
        }
        uint8_t *data = read_all(names[i], &size);
        fprintf(stderr, "\r%s ", names[i]);
        if (each_call)
            runs += fail_each_call(data, size, names[i]);
        else
            LLVMFuzzerTestOneInput(data, size);
        free(data);
    }
    printf("%lu\n", runs);
    return 0;
}

#endif
