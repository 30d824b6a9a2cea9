# What clang 14 makes with -O2 -g of this; it takes `unused` away, and keeps the name of the function:
#   static __attribute__((noinline)) int work(long unused, int k, const char *s) { return k * 3 + s[1]; }
#   int main(int count, char **words) { return work(count * 1000L, count + 6, words[0]); }
	.text
	.file	"dead_argument.c"
	.globl	main
	.p2align	4, 0x90
	.type	main,@function
main:
.Lfunc_begin0:
	.file	0 "/src" "dead_argument.c" md5 0x647e357283ca0a48c94822e7dda47b55
	.loc	0 2 0
	.cfi_sections .debug_frame
	.cfi_startproc
	.loc	0 2 70 prologue_end
	addl	$6, %edi
.Ltmp0:
	.loc	0 2 75 is_stmt 0
	movq	(%rsi), %rsi
.Ltmp1:
	.loc	0 2 44
	jmp	work
.Ltmp2:
.Lfunc_end0:
	.size	main, .Lfunc_end0-main
	.cfi_endproc
	.p2align	4, 0x90
	.type	work,@function
work:
.Lfunc_begin1:
	.loc	0 1 0 is_stmt 1
	.cfi_startproc
	.loc	0 1 89 prologue_end
	leal	(%rdi,%rdi,2), %ecx
	.loc	0 1 95 is_stmt 0
	movsbl	1(%rsi), %eax
	.loc	0 1 93
	addl	%ecx, %eax
	.loc	0 1 80
	retq
.Ltmp3:
.Lfunc_end1:
	.size	work, .Lfunc_end1-work
	.cfi_endproc
	.section	.debug_loclists,"",@progbits
	.long	.Ldebug_list_header_end0-.Ldebug_list_header_start0
.Ldebug_list_header_start0:
	.short	5
	.byte	8
	.byte	0
	.long	2
.Lloclists_table_base0:
	.long	.Ldebug_loc0-.Lloclists_table_base0
	.long	.Ldebug_loc1-.Lloclists_table_base0
.Ldebug_loc0:
	.byte	4
	.uleb128 .Lfunc_begin0-.Lfunc_begin0
	.uleb128 .Ltmp0-.Lfunc_begin0
	.byte	1
	.byte	85
	.byte	4
	.uleb128 .Ltmp0-.Lfunc_begin0
	.uleb128 .Lfunc_end0-.Lfunc_begin0
	.byte	4
	.byte	163
	.byte	1
	.byte	85
	.byte	159
	.byte	0
.Ldebug_loc1:
	.byte	4
	.uleb128 .Lfunc_begin0-.Lfunc_begin0
	.uleb128 .Ltmp1-.Lfunc_begin0
	.byte	1
	.byte	84
	.byte	4
	.uleb128 .Ltmp1-.Lfunc_begin0
	.uleb128 .Lfunc_end0-.Lfunc_begin0
	.byte	4
	.byte	163
	.byte	1
	.byte	84
	.byte	159
	.byte	0
.Ldebug_list_header_end0:
	.section	.debug_abbrev,"",@progbits
	.byte	1
	.byte	17
	.byte	1
	.byte	37
	.byte	37
	.byte	19
	.byte	5
	.byte	3
	.byte	37
	.byte	114
	.byte	23
	.byte	16
	.byte	23
	.byte	27
	.byte	37
	.byte	17
	.byte	27
	.byte	18
	.byte	6
	.byte	115
	.byte	23
	.ascii	"\214\001"
	.byte	23
	.byte	0
	.byte	0
	.byte	2
	.byte	46
	.byte	1
	.byte	17
	.byte	27
	.byte	18
	.byte	6
	.byte	64
	.byte	24
	.byte	122
	.byte	25
	.byte	3
	.byte	37
	.byte	58
	.byte	11
	.byte	59
	.byte	11
	.byte	39
	.byte	25
	.byte	73
	.byte	19
	.byte	63
	.byte	25
	.byte	0
	.byte	0
	.byte	3
	.byte	5
	.byte	0
	.byte	2
	.byte	34
	.byte	3
	.byte	37
	.byte	58
	.byte	11
	.byte	59
	.byte	11
	.byte	73
	.byte	19
	.byte	0
	.byte	0
	.byte	4
	.byte	72
	.byte	0
	.byte	127
	.byte	19
	.ascii	"\202\001"
	.byte	25
	.ascii	"\201\001"
	.byte	27
	.byte	0
	.byte	0
	.byte	5
	.byte	46
	.byte	1
	.byte	17
	.byte	27
	.byte	18
	.byte	6
	.byte	64
	.byte	24
	.byte	122
	.byte	25
	.byte	3
	.byte	37
	.byte	58
	.byte	11
	.byte	59
	.byte	11
	.byte	39
	.byte	25
	.byte	73
	.byte	19
	.byte	0
	.byte	0
	.byte	6
	.byte	5
	.byte	0
	.byte	3
	.byte	37
	.byte	58
	.byte	11
	.byte	59
	.byte	11
	.byte	73
	.byte	19
	.byte	0
	.byte	0
	.byte	7
	.byte	5
	.byte	0
	.byte	2
	.byte	24
	.byte	3
	.byte	37
	.byte	58
	.byte	11
	.byte	59
	.byte	11
	.byte	73
	.byte	19
	.byte	0
	.byte	0
	.byte	8
	.byte	36
	.byte	0
	.byte	3
	.byte	37
	.byte	62
	.byte	11
	.byte	11
	.byte	11
	.byte	0
	.byte	0
	.byte	9
	.byte	15
	.byte	0
	.byte	73
	.byte	19
	.byte	0
	.byte	0
	.byte	10
	.byte	38
	.byte	0
	.byte	73
	.byte	19
	.byte	0
	.byte	0
	.byte	0
	.section	.debug_info,"",@progbits
.Lcu_begin0:
	.long	.Ldebug_info_end0-.Ldebug_info_start0
.Ldebug_info_start0:
	.short	5
	.byte	1
	.byte	8
	.long	.debug_abbrev
	.byte	1
	.byte	0
	.short	12
	.byte	1
	.long	.Lstr_offsets_base0
	.long	.Lline_table_start0
	.byte	2
	.byte	0
	.long	.Lfunc_end1-.Lfunc_begin0
	.long	.Laddr_table_base0
	.long	.Lloclists_table_base0
	.byte	2
	.byte	0
	.long	.Lfunc_end0-.Lfunc_begin0
	.byte	1
	.byte	87
	.byte	3
	.byte	0
	.byte	2
	.long	123
	.byte	3
	.byte	0
	.byte	6
	.byte	0
	.byte	2
	.long	123
	.byte	3
	.byte	1
	.byte	7
	.byte	0
	.byte	2
	.long	127
	.byte	4
	.long	79
	.byte	1
	.byte	0
	.byte	5
	.byte	2
	.long	.Lfunc_end1-.Lfunc_begin1
	.byte	1
	.byte	87
	.byte	5
	.byte	0
	.byte	1
	.long	123
	.byte	6
	.byte	11
	.byte	0
	.byte	1
	.long	151
	.byte	7
	.byte	1
	.byte	85
	.byte	9
	.byte	0
	.byte	1
	.long	123
	.byte	7
	.byte	1
	.byte	84
	.byte	10
	.byte	0
	.byte	1
	.long	141
	.byte	0
	.byte	8
	.byte	4
	.byte	5
	.byte	4
	.byte	9
	.long	132
	.byte	9
	.long	137
	.byte	8
	.byte	8
	.byte	6
	.byte	1
	.byte	9
	.long	146
	.byte	10
	.long	137
	.byte	8
	.byte	12
	.byte	5
	.byte	8
	.byte	0
.Ldebug_info_end0:
	.section	.debug_str_offsets,"",@progbits
	.long	56
	.short	5
	.short	0
.Lstr_offsets_base0:
	.section	.debug_str,"MS",@progbits,1
.Linfo_string0:
	.asciz	"Debian clang version 14.0.6"
.Linfo_string1:
	.asciz	"m.c"
.Linfo_string2:
	.asciz	"/src"
.Linfo_string3:
	.asciz	"main"
.Linfo_string4:
	.asciz	"int"
.Linfo_string5:
	.asciz	"work"
.Linfo_string6:
	.asciz	"count"
.Linfo_string7:
	.asciz	"words"
.Linfo_string8:
	.asciz	"char"
.Linfo_string9:
	.asciz	"k"
.Linfo_string10:
	.asciz	"s"
.Linfo_string11:
	.asciz	"unused"
.Linfo_string12:
	.asciz	"long"
	.section	.debug_str_offsets,"",@progbits
	.long	.Linfo_string0
	.long	.Linfo_string1
	.long	.Linfo_string2
	.long	.Linfo_string3
	.long	.Linfo_string4
	.long	.Linfo_string5
	.long	.Linfo_string6
	.long	.Linfo_string7
	.long	.Linfo_string8
	.long	.Linfo_string9
	.long	.Linfo_string10
	.long	.Linfo_string11
	.long	.Linfo_string12
	.section	.debug_addr,"",@progbits
	.long	.Ldebug_addr_end0-.Ldebug_addr_start0
.Ldebug_addr_start0:
	.short	5
	.byte	8
	.byte	0
.Laddr_table_base0:
	.quad	.Lfunc_begin0
	.quad	.Ltmp1
	.quad	.Lfunc_begin1
.Ldebug_addr_end0:
	.section	".note.GNU-stack","",@progbits
	.section	.debug_line,"",@progbits
.Lline_table_start0:
