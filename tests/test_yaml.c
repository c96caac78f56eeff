// The reader of YAML trees: what it accepts, where things stand, and what it refuses.
#include "check.h"
#include "yaml_tree.h"

typedef struct Run {
    const char *text;
    size_t length;
    YamlNode *root;
} Run;

static Ctx *ctx;

static void read_body(Ctx *c, void *user) {
    Run *run = user;
    run->root = yaml_read(c, source_new(c, "t.yaml", arena_copy(c->arena, run->text, run->length), run->length));
}

static YamlNode *read_bytes(const char *text, size_t length) {
    ctx_free(ctx);
    ctx = ctx_new((Env){0});
    Run run = {text, length, NULL};
    CHECK(ctx && ctx_protect(ctx, read_body, &run), "out of memory");
    CHECK((run.root == NULL) == (diag_errors(ctx) > 0), "a tree or an error, never both or neither");
    return run.root;
}

static YamlNode *read_text(const char *text) { return read_bytes(text, strlen(text)); }

// The first diagnostic is `want`: "LINE:COL: error[CODE]".
static void refuses_bytes(const char *text, size_t length, const char *want) {
    CHECK(!read_bytes(text, length));
    CHECK(diag_errors(ctx) == 1);
    char *out = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&out, &size);
    diag_print(ctx, file, DIAG_TEXT);
    fclose(file);
    bool same = strncmp(out, "t.yaml:", 7) == 0 && strncmp(out + 7, want, strlen(want)) == 0 &&
                strncmp(out + 7 + strlen(want), ": ", 2) == 0;
    bool help = strstr(out, "\nhelp: ") != NULL;
    if (!same) printf("# %.300s\n", out);
    free(out);
    CHECK(same, "want %s", want);
    CHECK(help, "no help");
}

static void refuses(const char *text, const char *want) { refuses_bytes(text, strlen(text), want); }

static void tree_of_a_description(void) {
    YamlNode *root = read_text("a: 1\nb:\n  c: [x, 'y z', 3]\n  d: \"8\"\n");
    CHECK(root && root->kind == YAML_MAP && root->count == 2);
    CHECK_TEXT(root->keys[0], "a");
    CHECK_TEXT(root->items[0]->text, "1");
    CHECK(!root->items[0]->quoted);
    YamlNode *b = yaml_child(root, "b", 1, NULL);
    CHECK(b && b->kind == YAML_MAP && b->count == 2);
    CHECK(b->items[0]->kind == YAML_LIST && b->items[0]->count == 3);
    CHECK_TEXT(b->items[0]->items[1]->text, "y z");
    CHECK(b->items[1]->quoted);
    CHECK(!yaml_child(root, "c", 1, NULL) && !yaml_child(b->items[1], "d", 1, NULL));
}

static void spans(void) {
    YamlNode *root = read_text("a: 1\nb:\n  long: [x, yy]\n");
    YamlNode *b = yaml_child(root, "b", 1, NULL);
    CHECK(root->key_spans[1].line == 2 && root->key_spans[1].col == 1 && root->key_spans[1].length == 1);
    CHECK(b->key_spans[0].line == 3 && b->key_spans[0].col == 3 && b->key_spans[0].length == 4);
    CHECK(b->items[0]->span.col == 9 && b->items[0]->span.length == 7);
    CHECK(b->items[0]->items[1]->span.col == 13 && b->items[0]->items[1]->span.length == 2);
}

// Columns count bytes: a character of two, three or four bytes moves what follows by as much.
static void spans_count_bytes(void) {
    YamlNode *root = read_text("# \xC3\xA9\n'\xE2\x82\xAC\xF0\x9F\x98\x80': word\n");
    CHECK(root->key_spans[0].line == 2 && root->key_spans[0].col == 1 && root->key_spans[0].length == 9);
    CHECK(root->items[0]->span.col == 12 && root->items[0]->span.length == 4);
}

static void carriage_returns_end_lines_too(void) {
    YamlNode *root = read_text("a: 1\r\nb: two\r\n");
    CHECK(root && root->count == 2);
    CHECK_TEXT(root->items[1]->text, "two");
    CHECK(root->items[1]->span.line == 2 && root->items[1]->span.col == 4);
}

static void byte_order_mark(void) {
    YamlNode *root = read_text("\xEF\xBB\xBF"
                               "a: 1\n");
    CHECK(root && root->count == 1);
    CHECK_TEXT(root->keys[0], "a");
}

static void brackets_in_comments_do_not_nest(void) {
    char text[4000] = "";
    for (int i = 0; i < 100; i++) strcat(text, "# the range [0, 7) isn't nested\n");
    strcat(text, "a: [1] # [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n");
    CHECK(read_text(text) != NULL);
}

static void depth_32_is_fine(void) {
    char text[200] = "a: ";
    for (int i = 0; i < 31; i++) strcat(text, "[");
    for (int i = 0; i < 31; i++) strcat(text, "]");
    CHECK(read_text(text) != NULL);
}

static void refuses_tabs(void) {
    refuses("a:\n\tb: 1\n", "2:1: error[E0103]");
    refuses("a:\n  \tb: 1\n", "2:3: error[E0103]");
}
static void refuses_anchors(void) { refuses("a: &x 1\nb: 2\n", "1:4: error[E0104]"); }
static void refuses_anchored_maps(void) { refuses("a: &x\n  b: 2\n", "1:4: error[E0104]"); }
static void refuses_aliases(void) { refuses("a: 1\nb: *x\n", "2:4: error[E0104]"); }
static void refuses_tags(void) {
    refuses("a: !!int 1\n", "1:4: error[E0105]");
    refuses("a: ! 1\n", "1:4: error[E0105]");
    refuses("%TAG ! tag:x,2000:\n---\na: 1\n", "1:1: error[E0105]");
}
static void refuses_duplicate_keys(void) {
    refuses("a: 1\nb: 2\na: 3\n", "3:1: error[E0106]");
    refuses("a: {b: 1, 'b': 2}\n", "1:11: error[E0106]");
}
static void refuses_second_documents(void) {
    refuses("a: 1\n---\nb: 1\n", "2:1: error[E0108]");
    refuses("a: 1\n...\n---\nb: 1\n", "3:1: error[E0108]");
}
static void refuses_what_is_not_text(void) {
    refuses("a: \xFF\n", "1:4: error[E0102]");
    refuses("a: 1\nb: \xC3(\n", "2:5: error[E0102]"); // the byte that does not follow
    refuses("a: \xED\xA0\x80\n", "1:4: error[E0102]"); // a surrogate
    refuses_bytes("a: 1\0\n", 6, "1:5: error[E0102]");
    refuses("a: \"x\\0y\"\n", "1:4: error[E0102]");
    refuses("a: \x1B[31m\n", "1:4: error[E0102]");
}
static void refuses_strange_line_breaks(void) {
    refuses("a: 1\rb: 2\n", "1:5: error[E0102]");
    refuses("# x\xC2\x85", "1:4: error[E0102]");
    refuses("# x\xE2\x80\xA8", "1:4: error[E0102]");
    refuses("# x\xE2\x80\xA9", "1:4: error[E0102]");
}
static void refuses_empty_files(void) {
    refuses("", "1:1: error[E0101]");
    refuses("# nothing\n\n", "1:1: error[E0101]");
}
static void refuses_bad_syntax(void) {
    refuses("a: 1\nb: [1, 2\n", "3:1: error[E0101]");
    refuses("a: 1\n b: 2\n", "2:3: error[E0101]");
    refuses("? [a]\n: 1\n", "1:3: error[E0101]");
    refuses("a: 'x\n", "2:1: error[E0101]");
}

static char *repeat(const char *head, const char *unit, size_t times, const char *tail, size_t *length) {
    size_t h = strlen(head), u = strlen(unit), t = strlen(tail);
    char *text = malloc(h + u * times + t + 1), *at = text;
    at = memcpy(at, head, h + 1);
    at += h;
    for (size_t i = 0; i < times; i++, at += u) memcpy(at, unit, u + 1);
    memcpy(at, tail, t + 1);
    *length = h + u * times + t;
    return text;
}

static void refuses_all(const char *head, const char *unit, size_t times, const char *tail, const char *want) {
    size_t length;
    char *text = repeat(head, unit, times, tail, &length);
    refuses_bytes(text, length, want);
    free(text);
}

static void refuses_depth(void) {
    refuses_all("a: ", "[", 10000, "", "1:36: error[E0107]");
    refuses_all("a: ", "[", 1000000, "", "1:36: error[E0107]");
    refuses_all("a: ", "{x: ", 10000, "", "1:132: error[E0107]");
    refuses_all("a: \"\n# \", ", "[", 10000, "", "2:38: error[E0107]"); // a '#' inside quotes is no comment
    refuses_all("a: '\n#', ", "[", 10000, "", "2:37: error[E0107]");
    refuses_all("", "- ", 400000, "a\n", "1:65: error[E0107]"); // the 33rd list
}

static void refuses_hosts_of_values(void) {
    // The map, its key and the list are values as well.
    refuses_all("a: [", "1,", 400000, "]\n", "1:32767: error[E0109]");
    refuses_all("- 1\n", "- 1\n", 250000, "", "16384:3: error[E0109]");
}

// A megabyte of distinct keys: the search for duplicates must not be quadratic in it.
static void refuses_hosts_of_keys(void) {
    size_t room = 1 << 20, n = 0;
    char *text = malloc(room);
    for (int i = 0; n + 20 < room; i++) n += (size_t)sprintf(text + n, "k%d:\n", i);
    CHECK(!read_bytes(text, n));
    CHECK(diag_code_at(ctx, 0) == E0109);
    free(text);
}

static void long_texts_in_messages_are_cut(void) {
    Ctx *c = ctx_new((Env){0});
    char text[400];
    memset(text, 'x', 399);
    text[399] = 0;
    memcpy(text + 58, "\xE2\x82\xAC", 3); // the cut falls inside a character
    CHECK(strlen(yaml_shown(c, text)) == 61);
    CHECK(strcmp(yaml_shown(c, text) + 58, "...") == 0);
    CHECK_TEXT(yaml_shown(c, "a\x1B[31m\n"), "a [31m ");
    ctx_free(c);
}

int main(void) {
    RUN(tree_of_a_description);
    RUN(spans);
    RUN(spans_count_bytes);
    RUN(carriage_returns_end_lines_too);
    RUN(byte_order_mark);
    RUN(brackets_in_comments_do_not_nest);
    RUN(depth_32_is_fine);
    RUN(refuses_tabs);
    RUN(refuses_anchors);
    RUN(refuses_anchored_maps);
    RUN(refuses_aliases);
    RUN(refuses_tags);
    RUN(refuses_duplicate_keys);
    RUN(refuses_second_documents);
    RUN(refuses_what_is_not_text);
    RUN(refuses_strange_line_breaks);
    RUN(refuses_empty_files);
    RUN(refuses_bad_syntax);
    RUN(refuses_depth);
    RUN(refuses_hosts_of_values);
    RUN(refuses_hosts_of_keys);
    RUN(long_texts_in_messages_are_cut);
    ctx_free(ctx);
    return check_done();
}
