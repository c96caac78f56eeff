// plan_lower: Plan -> Prog whose tasks are unplaced. A step a step of the model's round (DESIGN.md, "The round"), a
// task a tile, with the regions it reads and writes; a body for each kind of layer, so that layers are a table and not
// a copy. No queue, no wait, no page yet.
//
// The buffers and tiles, R ranks, `rows` rows, shapes of one rank (Shape). A task is (op, layer, lo, hi, part);
// executors know from these alone what to compute. `w` = written, `r` = read; every op also reads state.
//
//   state [1] state           start, anchor, prompt tokens, rows of this round, sampling parameters
//   drafts [rows]             d1..d7 in 1..7
//   x, dx [rows, hidden]      residual streams of target and drafter
//   qkv, dqkv [rows, qkv_rows]  a rank's rows of the fused matrix in the checkpoint's order: its chunks, each [Q | K |
//   V];
//                             families without chunks, and the drafter: one chunk
//   kv, dkv [2, kv_heads] layered, state   cache rows: 0 old (positions < start), 1 new (this round's)
//   attn, dattn [rows, heads * v_dim]      part [heads, split]: running (max, sum, out) of a split attention
//   ix, im, dix, dim [R, rows, hidden]     the ranks' partial sums, R > 1 only
//   In two steps (plan_slice: hidden / R columns a rank), x, dx and taps are [rows, R, slice], the same numbers; ix,
//   im, dix and dim are [R, R, slice], of which a rank has what lies in its own slice. Partial sums are said to go to
//   all ranks, since the tasks of all ranks are alike; only the owner of their slice gets them, and nobody else reads
//   them. scores [rows, experts]  routes [1]     eact [keys, rows, expert_inner]  ey [keys, rows, hidden] scores_part
//   [split, rows, experts + 1]  of a split router, without the norm's factor; last the sum of x's squares act, dact
//   [rows, inner]   taps [rows, hidden] layered, state: the residual stream after a tapped layer logits [R, rows, vocab
//   / R]  best, dbest [R, vocab / R]: best token a row of each tile, kept at the tile's lo c [R, rows, hidden / R] fc's
//   output;  choice [rows];  NAME_part: a rank's slice before its push, R > 1 only ckv [rows, kv_heads * (qk_dim +
//   v_dim)]  [K | V] of the context rows for the drafter layer at hand
//
//   op               tile [lo, hi) of            r                                      w
//   draft_embed      hidden                      -                                      dx
//   draft_qkv        qkv_rows                    dx                                     dqkv
//   draft_attention  query heads                 dqkv (its q, k, v), dkv old            dattn
//   draft_o          hidden                      dattn, dx                              dx, or dix of all ranks when R
//   > 1 draft_up         inner                       dx                                     dact draft_down hidden
//   dact, dx                               dx, or dim of all draft_head       vocab / R                   dx dbest, or
//   dbest_part draft_pick       rows                        dbest                                  drafts embed hidden
//   drafts                                 x qkv              qkv_rows                    x qkv append           kv
//   heads                    qkv (its k, v)                         kv new attention        query heads, part of split
//   qkv (its q, k, v), kv old              attn, or part merge            query heads                 part attn o_proj
//   hidden                      attn, x                                x, or ix of all router           experts, part
//   of split      x                                      scores, or scores_part route            one task, publishes
//   scores, or scores_part                 routes experts_up       expert_inner, a key         x, routes eact
//   experts_down     hidden, a key               eact, routes                           ey
//   combine          hidden                      ey, routes, x                          x (and taps), or im of all
//   experts_sum      hidden, for both of these   eact, routes, x                        x (and taps), or im of all
//   mlp_up           dense_inner                 x                                      act
//   mlp_down         hidden                      act, x                                 x (and taps), or im of all
//   push             its site's extent           NAME_part                              NAME of all
//                                                                                       ranks
//   reduce           hidden                      its inbox, x or dx                     x (taps after the MLP) or dx
//                    in two steps: own slice                                            the same of all ranks
//   head             vocab / R                   x                                      logits, best, or their _part
//   sample           rows                        logits, best                           choice
//   fc               hidden / R                  taps                                   c, or c_part
//   context          [K | V] rows, drafter layer c                                      ckv
//   context_append   kv heads, drafter layer     ckv (its k, v)                         dkv new
//   accept           one task                    choice, drafts, kv new, dkv new        state, kv old, dkv old
//
// The round: draft_in (draft_embed), draft_layer a drafter layer, draft_out (draft_head, draft_pick), target_in
// (embed), the layers, context_in (fc), context_layer a drafter layer, target_out (head, sample, accept).
//
// prog_place: gives each task a worker and role, each weight tile its pages, and makes the hand-offs: a counter for
// each buffer that is handed on (`NAME.w`, signalled by its writers, in groups as fine as the schedule says), and, only
// where prove finds a pair that those do not order, one for its readers (`NAME.r`).
#ifndef TILEGEN_LOWER_H
#define TILEGEN_LOWER_H
#include "plan.h"
#include "prog.h"

Prog *plan_lower(Ctx *ctx, const Plan *plan);
// False after reporting.
bool prog_place(Ctx *ctx, const Plan *plan, Prog *prog);
#endif
