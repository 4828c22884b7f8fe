#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Generate C from the instruction table.

gen-insns.py insns.tab ops OUT.h            enum insn_op, insn_sem, insn_feature
gen-insns.py insns.tab table OUT.c          rows and look-up tables of the decoder
gen-insns.py insns.tab dispatch OUT.h OUT.c prototypes and dispatch array of the interpreter's op_* functions

The notation is explained at the head of insns.tab.
"""
import re
import sys

PREFIX = {'NP': 1, '66': 2, 'F3': 4, 'F2': 8, 'NF': 3}
MAPS = {'0F': 1, '0F38': 2, '0F3A': 3}
FLAG = {c: 'FLAG_%sF' % c for c in 'OSZAPCDI'}
BRANCHES = ('jmp', 'call', 'cond', 'ret', 'jmp_ind', 'call_ind', 'far')
ATTRS = {'lock', 'priv', 'end', 'string', 'prot', 'x87', 'nowait', 'control', 'mmx', 'sse', 'vex', 'align', 'vsib',
         'masked', 'fp_exc'}
SIZES = {'b': '1', 'w': '2', 'd': '4', 'q': '8', 'dq': '16', 'qq': '32', 't': '10', 'v': 'SIZE_V', 'z': 'SIZE_Z',
         'y': 'SIZE_Y', 'n': 'SIZE_N', 'p': 'SIZE_P', 'a': 'SIZE_2V', 's': 'SIZE_S', 'x': 'SIZE_X', 'ps': 'SIZE_X',
         'pd': 'SIZE_X', 'ss': '4', 'sd': '8', 'si': '4', 'pi': '8', 'h': 'SIZE_X2', 'f': 'SIZE_X4', 'e': 'SIZE_X8',
         'env': 'SIZE_ENV', 'fsave': 'SIZE_FSAVE', '': '0'}
GPRS = ['AX', 'CX', 'DX', 'BX', 'SP', 'BP', 'SI', 'DI']
SEGS = ['ES', 'CS', 'SS', 'DS', 'FS', 'GS']


class Row:
    def __init__(self, line, where):
        self.where = where
        cols = re.split(r'\s{2,}|\t+', line.strip())
        cols += [''] * (6 - len(cols))
        self.mnemonic, encoding, operands, self.sem, self.feature, attrs = cols[:6]
        if len(cols) > 6:
            self.fail('too many columns')
        self.space, self.prefixes, self.map = 0, 15, 0
        self.mods, self.regs, self.rms, self.modrm = 3, 255, 255, False
        self.wl, self.modes, self.enc = 15, 7, set()
        self.attrs, self.branch = set(), 'BR_NONE'
        self.flags = {'r': 0, 'w': 0, 'u': 0, 'm': 0}
        self.parse_encoding(encoding.split())
        self.operands = [] if operands == '-' else [self.parse_operand(o) for o in operands.split()]
        self.parse_attrs(attrs.split())
        if self.sem in ('host', 'host_x87'):
            self.attrs.add('host')
        if len(self.operands) > 6:
            self.fail('more than six operands')

    def fail(self, why):
        sys.exit('%s: %s: %s' % (self.where, self.mnemonic, why))

    def parse_vex(self, token):
        self.space, self.wl, self.attrs = 4, 0, self.attrs | {'prot'}
        for part in token.split('.')[1:]:
            if part in PREFIX:
                self.prefixes = PREFIX[part]
            elif part in MAPS:
                self.map = MAPS[part]
            elif part in ('W0', 'W1', 'WIG'):
                self.wl |= {'W0': 1, 'W1': 2, 'WIG': 3}[part]
            elif part in ('LZ', '128', '256', 'LIG', '*'):
                self.wl |= {'LZ': 4, '128': 4, '256': 8, 'LIG': 12, '*': 12}[part]
            else:
                self.fail('VEX part ' + part)
        self.wl |= 3 if not self.wl & 3 else 0

    def parse_encoding(self, tokens):
        self.opcodes = None
        for t in tokens:
            if t.startswith('VEX.'):
                self.parse_vex(t)
            elif t in ('W0', 'W1') and self.opcodes is None:
                self.wl = self.wl & ~3 | (1 if t == 'W0' else 2)
            elif self.opcodes is None and t in MAPS and not self.map:
                self.map = MAPS[t]
            elif self.opcodes is None and not self.map and t in PREFIX:
                self.prefixes = PREFIX[t]
            elif self.opcodes is None:
                m = re.fullmatch(r'([0-9A-F]{2})(\+r|\+cc)?', t) or self.fail('opcode ' + t)
                first = int(m[1], 16)
                self.opcodes = range(first, first + {None: 1, '+r': 8, '+cc': 16}[m[2]])
            else:
                self.parse_modrm(t)

    def parse_modrm(self, t):
        self.modrm = True
        if m := re.fullmatch(r'([C-F][0-9A-F])(\+i)?', t):
            byte = int(m[1], 16)
            self.mods, self.regs = 2, 1 << (byte >> 3 & 7)
            self.rms = 255 if m[2] else 1 << (byte & 7)
        elif m := re.fullmatch(r'/([0-7])?(r|m|rr|x)?', t):
            if m[1]:
                self.regs = 1 << int(m[1])
            self.mods = {None: 3, 'm': 1, 'r': 2 if m[1] else 3, 'rr': 2, 'x': 3}[m[2]]
            if m[2] == 'x':
                self.enc.add('ENC_MODREG')
        else:
            self.fail('ModRM ' + t)

    def parse_operand(self, t):
        access = {'=': 'ACC_W', '+': 'ACC_RW', '&': 'ACC_ADDR'}.get(t[0])
        t = t[1:] if access else t
        access = access or 'ACC_R'
        how, size, reg = self.operand_place(t)
        if how in ('HOW_H', 'HOW_B'):
            self.enc.add('ENC_VVVV')
        if how in ('HOW_M', 'HOW_VSIB'):
            self.mods &= 1
        if how in ('HOW_N', 'HOW_R', 'HOW_U') and 'ENC_MODREG' not in self.enc:
            self.mods &= 2
        return '{%s, %s, %s, %s}' % (how, size, access, reg)

    def operand_place(self, t):
        if t == '1':
            return 'HOW_ONE', '1', '0'
        if t in ('AL', 'CL', 'DL', 'BL'):
            return 'HOW_GPR', '1', 'R%sX' % t[0]
        if t == 'AH':
            return 'HOW_GPR', '1', 'REG_AH'
        if t in SEGS:
            return 'HOW_SEG', '2', 'SEG_' + t
        if t in GPRS:
            return 'HOW_GPR', '2', 'R' + t
        if t[1:] in GPRS and t[0] in 'rezyER':
            size = {'r': 'SIZE_V', 'e': 'SIZE_Z', 'y': 'SIZE_Y', 'E': '4', 'R': '8'}[t[0]]
            return 'HOW_GPR', size, 'R' + t[1:]
        if t == 'ST0':
            return 'HOW_ST', '10', '0'
        if t == 'STi':
            return 'HOW_STI', '10', '0'
        if m := re.fullmatch(r'XMM(\d)', t):
            return 'HOW_XMM', '16', m[1]
        if m := re.fullmatch(r'VM(\d+)', t):
            return 'HOW_VSIB', m[1], '0'
        if t == 'Ibs':
            return 'HOW_IS', 'SIZE_V', '0'
        if t == 'Ib2':
            return 'HOW_I2', '1', '0'
        letter, size = t[0], t[1:]
        if letter not in 'ABCDEGHIJLMNOPQRSUVWXYZ' or size not in SIZES:
            self.fail('operand ' + t)
        return 'HOW_' + letter, SIZES[size], '0'

    def parse_attrs(self, attrs):
        modes = {'i64': 3, 'o64': 4}
        for a in attrs:
            if a in modes:
                self.modes = modes[a]
            elif a in ('d64', 'f64', 'rexb0'):
                self.enc.add('ENC_' + a.upper())
            elif a.startswith('br='):
                if a[3:] not in BRANCHES:
                    self.fail('branch ' + a)
                self.branch = 'BR_' + a[3:].upper()
            elif a == 'r:cc':
                self.attrs.add('cc')
            elif m := re.fullmatch(r'([rwum]):([OSZAPCDI]+)', a):
                self.flags[m[1]] = '|'.join(FLAG[c] for c in m[2])
            elif a in ATTRS:
                self.attrs.add(a)
            else:
                self.fail('attribute ' + a)

    def c_row(self):
        attrs = '|'.join('INSN_' + a.upper() for a in sorted(self.attrs)) or '0'
        return '\t{"%s", OP_%s, SEM_%s, %s, %s, %s, %s, %s, FEAT_%s, %s, %d, %d, %d, %d, %d, %d, %s, %d, {%s}},' % (
            self.mnemonic, self.mnemonic.upper(), self.sem.upper(), self.flags['r'], self.flags['w'], self.flags['u'],
            self.flags['m'], attrs, feature_name(self.feature), self.branch, self.prefixes, self.modes, self.mods,
            self.regs, self.rms, self.wl, '|'.join(sorted(self.enc)) or '0', len(self.operands),
            ', '.join(self.operands))


def feature_name(f):
    return 'NONE' if f == '-' else f.upper()


def read_rows(path):
    rows = []
    with open(path) as f:
        for number, line in enumerate(f, 1):
            if line.strip() and not line.startswith('#'):
                rows.append(Row(line, '%s:%d' % (path, number)))
    return rows


def unique(names):
    return list(dict.fromkeys(names))


def enum(out, name, prefix, names, count):
    out.append('enum %s {' % name)
    out += ['\t%s%s,' % (prefix, n.upper()) for n in names]
    out += ['\t%s' % count, '};', '']


HEAD = '/* SPDX-License-Identifier: BSD-2-Clause */\n/* Made by tools/gen-insns.py from src/x86/insns.tab: change those. */'


def write(path, lines):
    with open(path, 'w') as f:
        f.write('\n'.join([HEAD] + lines) + '\n')


def gen_ops(rows, path):
    out = ['#ifndef GUISE_X86_INSN_OPS_H', '#define GUISE_X86_INSN_OPS_H', '']
    enum(out, 'insn_op', 'OP_', unique(r.mnemonic for r in rows), 'OP_COUNT')
    enum(out, 'insn_sem', 'SEM_', unique(r.sem for r in rows), 'SEM_COUNT')
    enum(out, 'insn_feature', 'FEAT_', ['none'] + [f for f in unique(r.feature for r in rows) if f != '-'],
         'FEAT_COUNT')
    write(path, out + ['#endif'])


def slots_of(rows):
    """{(space + map, opcode): [row index]} in table order."""
    slots = {}
    for index, row in enumerate(rows):
        for opcode in row.opcodes:
            slots.setdefault((row.space + row.map, opcode), []).append(index)
    return slots


def gen_table(rows, path):
    candidates, reg_slots, slots = [], [], {}

    def place(indices):
        candidates.extend(indices)
        return len(candidates) - len(indices), len(indices)

    for key, indices in slots_of(rows).items():
        modrm = {rows[i].modrm for i in indices}
        if len(modrm) != 1:
            rows[indices[0]].fail('some forms of the opcode have ModRM and some not')
        modrm = modrm.pop()
        if modrm and len(indices) > 3 and any(rows[i].regs != 255 for i in indices):
            reg_slots.append([place([i for i in indices if rows[i].regs >> reg & 1]) for reg in range(8)])
            slots[key] = (len(reg_slots) - 1, len(indices), 'SLOT_MODRM | SLOT_BY_REG')
        else:
            slots[key] = place(indices) + ('SLOT_MODRM' if modrm else '0',)
    out = ['#include "x86/insn_row.h"', '', 'const struct insn_row insn_rows[] = {']
    out += [r.c_row() for r in rows] + ['};', '', 'const unsigned insn_row_count = %d;' % len(rows), '']
    out += ['const uint16_t insn_candidates[] = {']
    out += ['\t' + ', '.join(map(str, candidates[i:i + 20])) + ',' for i in range(0, len(candidates), 20)]
    out += ['};', '', 'const struct insn_slot insn_slots[8][256] = {']
    out += ['\t[%d][0x%02x] = {%d, %d, %s},' % (k + v) for k, v in sorted(slots.items())]
    out += ['};', '', 'const struct insn_slot insn_reg_slots[][8] = {']
    out += ['\t{%s},' % ', '.join('{%d, %d, 0}' % s for s in group) for group in reg_slots]
    write(path, out + ['};'])


def gen_dispatch(rows, header, source):
    sems = unique(r.sem for r in rows)
    out = ['#ifndef GUISE_INTERPRET_OPS_H', '#define GUISE_INTERPRET_OPS_H', '', '#include "softkvm/vcpu.h"',
           '#include "x86/insn_row.h"', '', 'typedef void insn_handler(struct vcpu *v, const struct insn *i);', '',
           '/* The function of each semantics name, by enum insn_sem. */',
           'extern insn_handler *const op_table[SEM_COUNT];', '']
    out += ['void op_%s(struct vcpu *v, const struct insn *i);' % s for s in sems]
    write(header, out + ['', '#endif'])
    out = ['#include "softkvm/interpret/ops.h"']
    out += ['', 'insn_handler *const op_table[SEM_COUNT] = {']
    out += ['\t[SEM_%s] = op_%s,' % (s.upper(), s) for s in sems]
    write(source, out + ['};'])


def main():
    rows = read_rows(sys.argv[1])
    {'ops': gen_ops, 'table': gen_table, 'dispatch': gen_dispatch}[sys.argv[2]](rows, *sys.argv[3:])


main()
