// Replays a folder of inputs through a fuzz target, without libFuzzer: replay FOLDER. One TAP line.
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv) {
    const char *folder = argc > 1 ? argv[1] : "", *slash = strrchr(folder, '/'), *name = slash ? slash + 1 : folder;
    struct dirent **files;
    int count = scandir(folder, &files, NULL, alphasort), replayed = 0;
    for (int i = 0; i < count; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, files[i]->d_name);
        FILE *file = files[i]->d_name[0] == '.' ? NULL : fopen(path, "rb");
        if (!file) continue;
        fseek(file, 0, SEEK_END);
        long size = ftell(file);
        rewind(file);
        // An exact-size block, so that a sanitizer sees a read past the end.
        uint8_t *data = malloc(size > 0 ? (size_t)size : 1);
        if (data && size >= 0 && fread(data, 1, (size_t)size, file) == (size_t)size) {
            fprintf(stderr, "%s\n", path);
            LLVMFuzzerTestOneInput(data, (size_t)size);
            replayed++;
        }
        free(data);
        fclose(file);
    }
    if (replayed)
        printf("ok %s_corpus_of_%d\n", name, replayed);
    else
        printf("not ok %s: no inputs in %s\n", name, folder);
    return replayed ? 0 : 1;
}
