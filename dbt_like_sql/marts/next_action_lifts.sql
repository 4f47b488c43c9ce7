-- The paper's figures are those of its Table 1, all of whose rows we reproduce.
with paper (model, accuracy_lift) as (
    values ('last_pin', 0.0), ('decay_average', 0.25), ('k_means_oracle', 0.98), ('oracle', 1.40)
),

measured as (
    select * from {{ source('evaluation', 'next_action') }}
    where dt between '{{ var("first_dt") }}' and '{{ var("last_dt") }}'
),

-- What we measure, and on each day that was evaluated every row of the paper's table.
listed as (
    select dt, model from measured
    union
    select measured.dt, paper.model from measured cross join paper
)

select
    l.dt,
    l.model,
    a.model is not null as reproduced,
    a.accuracy,
    a.accuracy / nullif(base.accuracy, 0) - 1 as accuracy_lift,
    paper.accuracy_lift::double as paper_accuracy_lift,
    a.actions
from listed as l
left join measured as a on l.dt = a.dt and l.model = a.model
left join measured as base on l.dt = base.dt and base.model = 'last_pin'
left join paper on l.model = paper.model
