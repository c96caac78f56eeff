import sys,collections
rows=[l.split() for l in open(sys.argv[1])]
d=collections.defaultdict(lambda: collections.defaultdict(list))
for r in rows:
    op=r[3]; p,rd,b,e=map(int,r[4:8]); m=list(map(int,r[8:16]))
    seq=[('posted',p),('ready',rd),('begun',b)]+[('m%d'%i,x) for i,x in enumerate(m) if x>=rd and x<=e+2000]+[('ended',e)]
    for (n0,t0),(n1,t1) in zip(seq,seq[1:]): d[op][n0+'-'+n1].append(t1-t0)
    d[op]['ready-ended'].append(e-rd)
for op in d:
    print(op, ' '.join('%s %.2f'%(k,sorted(v)[len(v)//2]/1e3) for k,v in d[op].items() if len(v)>5))
